"""The model card: what a network is, how it came to be, what was checked, how to use it."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dsdctl
from dsdctl.data.labels import describe_noise
from dsdctl.export.as_onnx import OPSET
from dsdctl.export.chosen import Chosen
from dsdctl.plan.stopping import describe_rule
from dsdctl.report.formats.markdown import escaped, escaped_line
from dsdctl.results import environment_line
from dsdctl.spec.network import network_name
from dsdctl.units import size


@dataclass(frozen=True)
class Check:
    """A file's logits beside the stored network's, on real test images."""

    name: str
    images: int
    difference: float
    largest: float
    same: int
    right: int

    @property
    def line(self) -> str:
        return (
            f"{self.name}: largest difference of a logit {self.difference:.2g} (largest logit "
            f"{self.largest:.3g}), the same class for {self.same} of {self.images} test images, "
            f"{self.right} right"
        )


REMOVED = "Removed were channels that no weight reads, and constant ones, which no weight writes."

NOTHING_TO_REMOVE = "Each channel is still read and written by some weight: none was removed."

NOT_COMPACTED = (
    "Nothing was removed: of this network it is not known which layers read the channels that "
    "others write."
)

LIMITS = (
    "The sum that the blocks of a ResNet add to, torchvision's ResNets, vision transformers and "
    "networks of one's own are not compacted. Single weights that are zero stay zeros; "
    "no file is sparse."
)


def model_card(
    chosen: Chosen,
    checks: Sequence[Check],
    sizes: Mapping[str, int],
    parameters: tuple[int, int],
    *,
    linked: bool,
) -> str:
    """Markdown. `sizes` are the files' in bytes, `parameters` those of both networks; `linked` if
    there are channels that could have been removed."""
    result, identity = chosen.result, chosen.identity
    before, after = parameters
    recipe = chosen.row_plan.row.recipe
    return "\n".join(
        [
            f"# {chosen.row_plan.experiment}: {recipe.recipe}, seed {chosen.trajectory.seed}",
            "",
            escaped_line(recipe.title),
            "",
            f"Level {result.level}, {100 * result.sparsity:.2f} % of the weights removed; test "
            f"accuracy {100 * result.test_accuracy:.2f} %, validation accuracy "
            f"{100 * result.validation_accuracy:.2f} %.",
            "",
            "## Files",
            "",
            *[f"- `{name}`: {size(count)}" for name, count in sizes.items()],
            "",
            f"`compact.*` compute the same with {after:,} instead of {before:,} parameters. "
            + (REMOVED if after < before else NOTHING_TO_REMOVE if linked else NOT_COMPACTED),
            "",
            LIMITS,
            "",
            f"ONNX opset {OPSET}. Compared with the stored network on test images:",
            "",
            *[f"- {check.line}" for check in checks],
            "",
            "## Use",
            "",
            *_use(chosen),
            "",
            "## How it came to be",
            "",
            *[f"- {name}: {value}" for name, value in _origin(chosen).items()],
            "",
            "The level's whole identity, of which its key is the hash:",
            "",
            textwrap.indent(json.dumps(identity.model_dump(mode="json"), indent=1), "    "),
            "",
        ]
    )


def _use(chosen: Chosen) -> list[str]:
    images, facts = chosen.identity.images, chosen.trajectory.regime.images.facts
    centre = images.size.test_crop if images.size else None
    height, width = (centre, centre) if centre else (facts.height, facts.width)
    return [
        f"Input `images`: float32 (batch, {facts.channels}, {height}, {width}), pixels scaled to "
        "[0, 1], then (pixel - mean) / std with",
        f"mean {list(images.normalize.mean)} and std {list(images.normalize.std)} by channel.",
        f"Output `logits`: float32 (batch, {facts.classes}); class i is the data set's label i, "
        "counted from 0.",
        "",
        "    import onnxruntime",
        '    session = onnxruntime.InferenceSession("compact.onnx")',
        '    (logits,) = session.run(["logits"], {"images": images})',
        "",
        "`model.safetensors` has the names of the network's state_dict; a recipe may let it teach, "
        "`distill: {teacher: {weights: model.safetensors}}`.",
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
        "chosen": f"{describe_rule(row.recipe.select)}, on the "
        + ("test set" if identity.images.validation == "test" else "validation images"),
        "trajectory": chosen.trajectory.key,
        "level's key": chosen.level.key,
        "teacher": chosen.teacher or "none",
        "computed with": f"{environment_line(chosen.level.environment)}, Python "
        f"{chosen.level.environment.python}, dsdctl {chosen.level.environment.dsdctl}",
        "exported with": f"dsdctl {dsdctl.__version__}",
    }
