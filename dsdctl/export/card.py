"""The model card: what a network is, how it came to be, what was checked, how to use it."""

import json
import platform
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import dsdctl
from dsdctl.data.labels import describe_noise
from dsdctl.export.as_onnx import OPSET
from dsdctl.export.chosen import Chosen
from dsdctl.export.speed import RUNS, THREADS, Latency, slower_lines
from dsdctl.report.formats.markdown import escaped, escaped_line
from dsdctl.results import Measured, environment_line
from dsdctl.spec.network import CodeNetwork, network_name
from dsdctl.units import size


@dataclass(frozen=True)
class Check:
    """A file's logits beside the stored network's, on real test images."""

    name: str
    images: int
    difference: float
    largest: float
    same: int
    correct: int

    @property
    def line(self) -> str:
        return (
            f"{self.name}: largest difference of a logit {self.difference:.2g} (largest logit "
            f"{self.largest:.3g}), the same class for {self.same} of {self.images} test images, "
            f"{self.correct} correct"
        )


@dataclass(frozen=True)
class Counts:
    """Of a network: its parameters, its Conv2d and Linear weights, those that are not zero, and the
    MACs of one image, as fvcore counts them in train mode."""

    parameters: int
    weights: int
    nonzero: int
    macs: int


@dataclass(frozen=True)
class Exported:
    """What was written, checked and measured. In `bytes_of` are the files."""

    checks: tuple[Check, ...]
    bytes_of: Mapping[str, int]
    whole: Counts
    compact: Counts
    block: int
    linked: bool
    """Whether there are channels that could have been removed."""
    latencies: tuple[Latency, ...]
    refused: str = ""
    """Why there is no file in ONNX although what it takes is installed."""

    @property
    def removed(self) -> bool:
        """Whether the compacted network is smaller."""
        return self.compact.parameters < self.whole.parameters

    @property
    def sizes(self) -> list[str]:
        """What both networks are made of, in a line each."""
        return [
            f"{name}: {counts.parameters:,} parameters, {counts.nonzero:,} of {counts.weights:,} "
            f"weights not zero, {counts.macs:,} MACs an image"
            for name, counts in (("whole", self.whole), ("compacted", self.compact))
        ]

    @property
    def slower(self) -> list[str]:
        """Where the compacted network is the slower one."""
        return slower_lines(self.latencies)


REMOVED = "Removed channels: those that no weight reads, and constant ones, which no weight writes."

NOTHING_TO_REMOVE = "No layer has a whole block of idle channels: none was removed."

BLOCKS = (
    "Convolutions keep a multiple of {} channels, some of them idle: runtimes on x86 compute 8 "
    "(AVX2) or 16 (AVX-512) channels at once, and onnxruntime takes a slower way for other counts."
)

NOT_COMPACTED = (
    "Nothing was removed: dsdctl does not know which layers of this network read the channels that "
    "others write."
)

LIMITS = (
    "The sum that the blocks of a ResNet add to, torchvision's ResNets, vision transformers and "
    "networks of one's own are not compacted. Single weights that are zero stay zeros; no file is "
    "sparse, and torch and onnxruntime, which run these files, multiply by zeros as by any number: "
    "any speed-up comes from fewer channels alone."
)


IN_ONNXRUNTIME = (
    "Without torch and dsdctl:",
    "",
    "    import onnxruntime",
    '    session = onnxruntime.InferenceSession("compact.onnx")',
    '    (logits,) = session.run(["logits"], {"images": images})',
    "",
)


def model_card(chosen: Chosen, exported: Exported) -> str:
    """What a network is and was, in Markdown."""
    result, identity = chosen.result, chosen.identity
    recipe = chosen.row_plan.row.recipe
    in_onnx = "model.onnx" in exported.bytes_of
    onnx = f"ONNX opset {OPSET}. " if in_onnx else ""
    refused = [f"No ONNX: {escaped_line(exported.refused)}.", ""] if exported.refused else []
    return "\n".join(
        [
            f"# {chosen.row_plan.experiment}: {recipe.recipe}, seed {chosen.trajectory.seed}",
            "",
            escaped_line(recipe.title),
            "",
            f"Level {result.level}, {pruned_words(result)}; test accuracy"
            f" {100 * result.test_accuracy:.2f} %, validation accuracy "
            f"{100 * result.validation_accuracy:.2f} %.",
            "",
            "## Files",
            "",
            *[f"- `{name}`: {size(count)}" for name, count in exported.bytes_of.items()],
            "",
            _compaction(exported),
            "",
            LIMITS,
            "",
            *refused,
            f"{onnx}Compared with the stored network on test images:",
            "",
            *[f"- {check.line}" for check in exported.checks],
            "",
            *_cost(exported),
            "",
            "## Use",
            "",
            *_use(chosen, in_onnx=in_onnx),
            "",
            "## Provenance",
            "",
            *[f"- {name}: {value}" for name, value in _origin(chosen).items()],
            "",
            "The level's whole identity, of which its key is the hash:",
            "",
            textwrap.indent(json.dumps(identity.model_dump(mode="json"), indent=1), "    "),
            "",
        ]
    )


def pruned_words(result: Measured) -> str:
    """How much of a level's network is pruned."""
    if result.sparsity == 0:
        return "dense: no weight is removed"
    return f"{100 * result.sparsity:.2f} % of the weights removed"


def _compaction(exported: Exported) -> str:
    """What the compacted network is beside the whole one."""
    after, before = exported.compact.parameters, exported.whole.parameters
    unknown = NOTHING_TO_REMOVE if exported.linked else NOT_COMPACTED
    why = REMOVED if exported.removed else unknown
    fewer = f" with {after:,} instead of {before:,} parameters" if after < before else ""
    words = f"`compact.*` compute the same{fewer}. {why}"
    in_blocks = exported.linked and exported.block > 1
    return f"{words} {BLOCKS.format(exported.block)}" if in_blocks else words


def _cost(exported: Exported) -> list[str]:
    """Sizes, and the latencies that were measured."""
    slower = [f"- **{line}**" for line in exported.slower]
    return [
        "## What it costs",
        "",
        *[f"- {line}" for line in exported.sizes],
        *slower,
        *(_latency(exported) if exported.latencies else []),
    ]


def _latency(exported: Exported) -> list[str]:
    return [
        "",
        f"Latency on {THREADS} thread of {processor_name()}: the median of up to {RUNS} batches, "
        "and in brackets between which 80 % of them lie.",
        "",
        *[f"- {one.line}" for one in exported.latencies],
    ]


def processor_name() -> str:
    """The processor as Linux calls it, or at least its kind."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.partition(":")[2].strip() for line in lines if line.startswith("model name")
        )
    return platform.machine()


def _use(chosen: Chosen, *, in_onnx: bool) -> list[str]:
    images, facts = chosen.identity.images, chosen.trajectory.setup.images.facts
    centre = images.size.test_crop if images.size else None
    height, width = (centre, centre) if centre else (facts.height, facts.width)
    return [
        f"Input `images`: float32 (batch, {facts.channels}, {height}, {width}), pixels scaled to "
        "[0, 1], then (pixel - mean) / std with",
        f"mean {list(images.normalize.mean)} and std {list(images.normalize.std)} by channel.",
        f"Output `logits`: float32 (batch, {facts.classes}); class i is the data set's label i, "
        "counted from 0.",
        "",
        *_in_torch(chosen),
        "",
        *(IN_ONNXRUNTIME if in_onnx else ()),
        "`model.safetensors` has the names of the network's state_dict; a recipe may let it teach, "
        "`distill: {teacher: {weights: model.safetensors}}`.",
    ]


def _in_torch(chosen: Chosen) -> list[str]:
    """How a file becomes a module, whose code a network of one's own brings itself."""
    if isinstance(chosen.identity.network, CodeNetwork):
        return [
            f"In torch, where `network` is what {network_name(chosen.identity.network)} makes:",
            "",
            "    from safetensors.torch import load_file",
            '    network.load_state_dict(load_file("compact.safetensors"))',
            "    logits = network.eval()(images)",
        ]
    return [
        "In torch, with dsdctl installed, or `model.safetensors` in its place:",
        "",
        "    import dsdctl",
        '    network = dsdctl.load("compact.safetensors")',
        "    logits = network(images)",
    ]


def _origin(chosen: Chosen) -> dict[str, str]:
    """What a reader needs to find or make it again."""
    row, identity = chosen.row_plan.row, chosen.identity
    noise = describe_noise(row.student.images.noise)
    return {
        "data": f"{identity.images.dataset}, label noise {noise}",
        "true flip rate of the training labels": f"{100 * chosen.result.flip_rate:.2f} %",
        "network": network_name(identity.network),
        "variant": escaped(row.variant) or "none",
        "seed": str(chosen.trajectory.seed),
        "chosen": chosen.rule,
        "trajectory": chosen.trajectory.key,
        "level's key": chosen.level.key,
        "teacher": chosen.teacher or "none",
        "computed with": f"{environment_line(chosen.level.environment)}, Python "
        f"{chosen.level.environment.python}, dsdctl {chosen.level.environment.dsdctl}",
        "exported with": f"dsdctl {dsdctl.__version__}",
    }
