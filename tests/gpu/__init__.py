"""The path on a GPU, proven and measured by one command.

    python -m tests.gpu [--minutes 8] [--out DIR] [--only STAGE] [--device cuda|cpu] [--tiny]
                        [--images FILE.npz | --jpegs FILE.npz] [--dense-epochs 160]

Three stages run in this order, each in a process of its own that is ended once its share of the
minutes is over; one that fails does not stop the next.

- right (60 s of 8 minutes): recorded steps, bytes, gradients, what is done when things go wrong
- fast (150 s): rates against the device's own ceilings, and where the time goes
- table1 (240 s): a dense training, and a brief Table 1 through `dsdctl run`

Each keeps what it has so far in DIR/STAGE.json, whole at any moment; DIR gets besides dense.json,
the spec table1.yaml, its report.json and report.txt, and log.txt with what all of them said.
The exit code is 0 when every check held and every measurement was made, else 1.

On a machine with torch, torchvision, scikit-learn, scipy, matplotlib and jinja2, but without a
registry, bring the wheels of pydantic, pydantic_core, typing-inspection, annotated-types,
typing-extensions, fvcore, iopath, yacs, termcolor, portalocker, tabulate, tqdm, PyYAML, rich,
markdown-it-py, mdurl, pygments, typer, annotated-doc, click, shellingham and safetensors, as far as
they are not there, for its Python (`pip download`): under 10 MiB. The images of `--jpegs` take 53
MiB: `train_jpeg` and `test_jpeg` are all JPEG files end to end, `train_offsets` where each begins,
`train_labels` its class. So all stays under 64 MiB. W&B is not needed and not imported: no spec
here asks for a tracker, and `right` stops whoever imports it.

`--device cpu --tiny` rehearses all of it on little networks and images, where numbers mean nothing.
"""
