"""Little trainings of the real networks, for the checks on bytes and on agreement."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsdctl.bench.cases import case_masks
from dsdctl.bench.gpu import CountedCapture
from dsdctl.ml.graph import capture_on
from dsdctl.ml.networks.build import build_network
from dsdctl.ml.networks.resnet import ResNet18
from dsdctl.ml.networks.vgg import VGGLike
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.teacher import build_table, cached_logits, direct_logits, distillation_from
from dsdctl.ml.train import Trainer, cross_entropy
from dsdctl.ml.views import Normalization, ViewReader, Views

Kind = Literal["student", "teacher", "distilled-table", "distilled-called", "adamw-clip"]
PRECISIONS = ("fp32", "tf32", "bf16")
NORMALIZATION = Normalization((0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
BATCH = 128


@dataclass(frozen=True)
class Images:
    """Images of smooth colours, which differ as photographs do, and labels."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def made(cls, count: int, side: int, device: str) -> "Images":
        stream = torch.Generator().manual_seed(0)
        coarse = torch.rand(count, 3, 4, 4, generator=stream)
        pixels = F.interpolate(coarse, side, mode="bilinear").mul(255).to(torch.uint8)
        labels = torch.randint(0, 10, (count,), generator=stream)
        return cls(pixels.permute(0, 2, 3, 1).contiguous().to(device), labels.to(device))


def network(kind: Kind, tiny: bool) -> nn.Module:
    """The student or teacher of specs/table1.yaml, on the CPU; or little ones of their kind."""
    if kind == "teacher" and not tiny:
        return build_network(ResNet18, 3, 10, seed=0)
    depth, width = (2, 16) if tiny else (5, 32)
    return build_network(VGGLike, 3, 10, seed=0, depth=depth, width=width)


def side_and_batch(tiny: bool) -> tuple[int, int]:
    return (8, 16) if tiny else (32, BATCH)


def settings(kind: Kind, precision: str, batch: int) -> Settings:
    options: dict[str, Any] = {"lr": 0.01}
    if kind == "adamw-clip":
        options = {"optimizer": "adamw", "lr": 0.001, "clip_norm": 1.0, "schedule": "constant"}
    return Settings(
        epochs=2, batch_size=batch, momentum=0.9, weight_decay=1e-4, milestones=(1,), gamma=0.1,
        precision=precision, warmup=1, **options,
    )  # fmt: skip


def counted(device: str) -> CountedCapture:
    """Records steps; where nothing can be recorded they run as they are in place of a replay."""
    return CountedCapture(capture_on(torch.device(device)) or (lambda function: function))


def ten_steps(
    kind: Kind, precision: str, device: str, tiny: bool, capture: CountedCapture | None
) -> dict[str, Tensor]:
    """Two epochs of four full batches and a ragged one; the trainer's state, on the CPU."""
    side, batch = side_and_batch(tiny)
    images = Images.made(4 * batch + batch // 3, side, device)
    reader = ViewReader(images.pixels, NORMALIZATION, Views(flip=True, crop=1))
    student = network(kind, tiny).to(device)
    loss: Any = cross_entropy
    if kind.startswith("distilled"):
        loss = _distillation(kind, precision, reader, len(images.labels), device, tiny)
    chosen = settings(kind, precision, batch)
    trainer = Trainer(student, case_masks(student), chosen, loss, capture)
    for epoch in range(2):
        trainer.train_epoch(reader, images.labels, seed=0, level=1, epoch=epoch)
    return {name: tensor.detach().cpu().clone() for name, tensor in trainer.state().items()}


def _distillation(
    kind: Kind, precision: str, reader: ViewReader, images: int, device: str, tiny: bool
) -> Any:
    teacher = network("teacher", tiny).to(device).eval()
    if kind == "distilled-called":
        return distillation_from(direct_logits(teacher), alpha=0.8, temperature=10)
    place = (precision, device, images)
    if place not in _TABLES:
        _TABLES[place] = build_table(teacher, reader, images, precision, torch.device(device))
    return distillation_from(cached_logits(_TABLES[place].to(device)), alpha=0.8, temperature=10)


_TABLES: dict[tuple[str, str, int], Tensor] = {}
"""Each is built once in a process: the images are always the same."""


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The tensors that are not the same bit for bit."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]
