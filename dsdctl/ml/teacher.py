"""A teacher's logits for a batch: called directly, or looked up in a table of every view."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dsdctl.ml.batches import inference_batch_size
from dsdctl.ml.device import precision
from dsdctl.ml.losses import LabelLoss, TeacherLoss, distillation_loss
from dsdctl.ml.train import LossFunction
from dsdctl.ml.views import Batch, Reader

TeacherLogits = Callable[[Batch], Tensor]
"""batch -> the teacher's logits (B, K) for the same images in the same views."""


def direct_logits(teacher: nn.Module) -> TeacherLogits:
    """Run the teacher, in eval mode, on every batch."""
    teacher.eval()

    @torch.no_grad()
    def logits(batch: Batch) -> Tensor:
        return teacher(batch.images).float()  # type: ignore[no-any-return]

    return logits


def cached_logits(table: Tensor) -> TeacherLogits:
    """Look the logits up in `table` (N, V, K): image n in view v."""
    return lambda batch: table[batch.indices, batch.views]


def distillation_from(
    teacher: TeacherLogits, *, alpha: float, temperature: float, label_smoothing: float = 0.0
) -> LossFunction:
    """The loss of a student that learns from labels and `teacher`, `distillation_loss` (eq. 2)."""

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return distillation_loss(
            logits,
            teacher(batch),
            batch.labels,
            alpha=alpha,
            temperature=temperature,
            label_smoothing=label_smoothing,
        )

    return loss


def mixed_from(
    teacher: TeacherLogits, *, alpha: float, hard: LabelLoss, soft: TeacherLoss
) -> LossFunction:
    """(1 - alpha) `hard` + alpha `soft`: the loss against labels and that against `teacher`."""

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        distilled = soft(logits, teacher(batch), batch.labels)
        return (1 - alpha) * hard(logits, batch.labels) + alpha * distilled

    return loss


@torch.no_grad()
def build_table(
    teacher: nn.Module,
    reader: Reader,
    images: int,
    precision_name: str,
    device: torch.device,
    begin: Callable[[int], None] = lambda _view: None,
) -> Tensor:
    """Logits of `teacher` for all V views of N = `images` images: float32 (N, V, K) on the CPU.

    `begin` is called before each view with its number.
    """
    teacher.eval()
    first = torch.zeros(1, dtype=torch.int64, device=device)
    at_once = inference_batch_size(teacher, reader(first, first))
    columns = []
    with precision(precision_name, device):
        for view in range(reader.views.count):
            begin(view)
            parts = []
            for indices in torch.split(torch.arange(images, device=device), at_once):
                batch = reader(indices, torch.full_like(indices, view))
                parts.append(teacher(batch).float().cpu())
            columns.append(torch.cat(parts))
    return torch.stack(columns, dim=1)
