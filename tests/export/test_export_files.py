"""`dsdctl export`: what it writes computes what the store's network does, and is measured."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import export, store_of

import dsdctl
from dsdctl.export.speed import Latency, Spread, slower_lines
from dsdctl.export.write import TOLERANCE

pytest.importorskip("onnxruntime", reason="dsdctl[export] is not installed")
pytest.importorskip("onnxscript", reason="dsdctl[export] is not installed")


@pytest.mark.long
def test_files_compute_what_was_measured(spec: Path, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    options = ("--block", 1, "--output", tmp_path / "out")
    done = export(spec, "--variant", "student.width=6", *options)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "out"
    model = onnx.load(folder / "model.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    facts = {entry.key: entry.value for entry in model.metadata_props}
    result = json.loads(
        next(store_of(spec).glob(f"levels/*/{facts['key']}/result.json")).read_text()
    )
    images, labels = _test_images(json.loads(facts["mean"]), json.loads(facts["std"]))
    for name in ("model", "compact"):
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx")
        (logits,) = session.run(["logits"], {"images": images})
        hits = (logits.argmax(1) == labels).sum()
        # An image whose two best classes are equal but for rounding may be either.
        second, first = np.sort(logits, axis=1)[:, -2:].T
        undecided = (first - second < 1e-4 * np.abs(logits).max()).sum()
        assert abs(hits - result["test_accuracy"] * len(labels)) < undecided + 0.5
    weights = next(store_of(spec).glob(f"levels/*/{facts['key']}/weights.safetensors"))
    _same_tensors(weights, folder / "model.safetensors")
    card = (folder / "README.md").read_text()
    assert facts["key"] in card
    before, after = (
        sum(
            tensor.size for tensor in _tensors(folder / f"{name}.safetensors", "running", "batches")
        )
        for name in ("model", "compact")
    )
    fewer = f"with {after:,} instead of {before:,} parameters"
    assert (fewer in card) == (after < before)
    assert ("Removed channels" in card) == (after < before)
    assert ("none was removed" in card) == (after == before)
    assert f"test accuracy {100 * result['test_accuracy']:.2f} %" in card.replace("\n", " ")


@pytest.mark.long
def test_the_lines_of_the_card_load_both_kinds_of_files(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    options = ("--variant", "student.width=6", "--block", 1, "--no-latency", "--output", folder)
    done = export(spec, *options)
    assert done.exit_code == 0, done.output
    monkeypatch.chdir(folder)
    torchs, onnxs = _code_in_card(folder)
    _computes_the_same(torchs, of_torch=True)
    _computes_the_same(onnxs, of_torch=False)


def _code_in_card(folder: Path) -> list[str]:
    """What the card says that one is to run, three lines each."""
    _, _, use = (folder / "README.md").read_text().partition("## Use")
    blocks = re.findall(r"(?:^    .+\n)+", use.partition("\n## ")[0], re.M)
    assert {block.count("\n") for block in blocks} == {3}
    return [textwrap.dedent(block) for block in blocks]


def _computes_the_same(code: str, *, of_torch: bool) -> None:
    """Run the code in an export's folder, and compare what it computes with the whole network."""
    import torch

    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    names: dict[str, Any] = {"images": images if of_torch else images.numpy()}
    exec(code, names)  # what a reader would run
    found = torch.as_tensor(names["logits"]).detach().double()
    whole = dsdctl.load("model.safetensors").double()(images.double()).detach()
    torch.testing.assert_close(found, whole, rtol=0, atol=TOLERANCE * float(whole.abs().max()))


def _test_images(mean: float, std: float) -> tuple[np.ndarray, np.ndarray]:
    """The digits' test images as the model card says that they are to be given."""
    import torch

    from dsdctl.data.sources import load_digits
    from dsdctl.ml.data import split_source
    from dsdctl.ml.noise import Noise
    from dsdctl.worker.inputs import as_source

    split = split_source(
        as_source(load_digits()),
        split_seed=0,
        test_fraction=0.4,
        validation_fraction=0.2,
        validation_noisy=False,
        noise=Noise("symmetric", 0.4, 0, ()),
    ).test
    scaled = split.pixels.to(torch.float32).permute(0, 3, 1, 2) / 255
    return ((scaled - mean) / std).contiguous().numpy(), split.labels.numpy()


def _tensors(file: Path, *but: str) -> list[np.ndarray]:
    """The parameters in a file: all but those that are named so."""
    from safetensors.numpy import load_file

    return [value for name, value in load_file(file).items() if not any(b in name for b in but)]


def _same_tensors(one: Path, other: Path) -> None:
    from safetensors.numpy import load_file

    ours, theirs = load_file(one), load_file(other)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_without_the_extra_there_is_all_but_onnx(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    done = export(spec, "--variant", "student.width=4", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "README.md", "checksums.json", "compact.safetensors", "model.safetensors",
    ]  # fmt: skip
    assert done.stderr == (
        "warning: no ONNX: ONNX needs onnx, onnxruntime, onnxscript: pip install 'dsdctl[export]' "
        "brings them\n"
    )
    card = (tmp_path / "out/README.md").read_text()
    assert "opset" not in card and "onnxruntime, batch" not in card
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "out")
    (code,) = _code_in_card(tmp_path / "out")
    _computes_the_same(code, of_torch=True)


def test_what_is_written_is_measured_and_counted(spec: Path, tmp_path: Path) -> None:
    """MACs in closed form: 8x8 pixels, 3x3 kernels of 1 -> 4 -> 4 channels, 10 classes; and two
    BatchNorms, whose MACs fvcore counts twice a value, and a pooling."""
    options = ("--variant", "student.width=4", "--level", 1, "--output", tmp_path / "out")
    done = export(spec, *options)
    assert done.exit_code == 0, done.output
    facts = {entry.split(": ")[0]: entry for entry in done.stdout.splitlines()}
    weights = 9 * 4 + 9 * 4 * 4 + 4 * 2 * 2 * 10
    nonzero = weights - round(0.3 * weights)
    assert f"{nonzero} of {weights} weights not zero" in facts["whole"]
    layers = 9 * 4 * 64 + 9 * 4 * 4 * 64 + 4 * 2 * 2 * 10
    macs = int(re.search(r"([\d,]+) MACs", facts["whole"])[1].replace(",", ""))  # type: ignore[index]
    assert layers < macs < 1.3 * layers
    card = (tmp_path / "out/README.md").read_text()
    for runtime in ("torch", "onnxruntime"):
        for batch in (1, 64):
            assert re.search(rf"  {runtime}, batch {batch}: whole [\d.e+]+ ms \(", done.stdout)
            assert f"- {runtime}, batch {batch}: whole " in card
    assert "on 1 thread of " in card
    for file in ("model.safetensors", "model.onnx"):
        assert facts[file].endswith(" KiB")


@pytest.mark.parametrize(
    ("compact", "slower"), [(1.0, False), (1.04, False), (1.06, True), (2.0, True)]
)
def test_a_compacted_network_that_is_slower_is_called_so(compact: float, slower: bool) -> None:
    one = Latency("torch", 64, Spread(1.0, 0.9, 1.1), Spread(compact, 0.9, 2.1))
    alone = Latency("torch", 1, Spread(1.0, 0.9, 1.1), None)
    assert len(slower_lines([alone, one])) == slower
    if slower:
        assert slower_lines([one])[0].startswith("compacted is SLOWER than whole with torch at")
    assert one.line.endswith(f"{1 / compact:.2f} x as fast")


@pytest.mark.parametrize(
    ("arch", "side"),
    [
        ("vgg-like", 8),
        ("vgg16", 16),
        ("resnet18", 32),
        ("mlp", 8),
        ("vit", 8),
        ("resnet18-imagenet", 64),
    ],
)
@pytest.mark.long
def test_every_network_is_exported_for_batches_of_any_size(arch: str, side: int) -> None:
    import torch
    from networks import build_network

    from dsdctl.export.as_onnx import onnx_bytes, run_onnx

    options = {
        "vgg-like": {"depth": 2, "width": 4, "pool": 3},
        "vgg16": {"width": 4},
        "vit": {"dim": 8, "heads": 2},
    }
    network = build_network(
        arch, 3, 5, seed=0, image_size=(side, side), **options.get(arch, {})
    ).eval()
    model = onnx_bytes(network, (3, side, side), {})
    images = torch.rand(101, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = network(images).double()
        exact = network.double()(images.double())
    # Both add the same products up in float32, in another order: neither is much worse than the
    # other, of 101 images, and one that is at a border of a ReLU or of a window may be torch's.
    off = 16 * float((plain - exact).abs().max())
    assert off < 0.1 * float(exact.std())
    for count in (1, 2, 7, 101):
        ours = run_onnx(model, images[:count]).double()
        torch.testing.assert_close(ours, exact[:count], rtol=0, atol=off)


@pytest.mark.long
@pytest.mark.linux
def test_an_export_leaves_nothing_in_the_home_folder(tmp_path: Path) -> None:
    """onnxruntime would keep an identity of the device there, for what it reports home."""
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import torch; from dsdctl.export.as_onnx import onnx_bytes, run_onnx;"
        "run_onnx(onnx_bytes(torch.nn.Flatten(), (1, 2, 2), {}), torch.zeros(1, 1, 2, 2))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    environment["HOME"] = str(home)
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=200)
    assert [file for file in home.rglob("*") if "Microsoft" in str(file)] == []
