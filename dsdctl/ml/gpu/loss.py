"""One kernel for the loss of a small batch with its gradient, and one for its metrics.

Shapes: B images, K classes.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

NUMBERS = 8192
"""Upper limit on a batch's logits, padded to powers of two: one program holds them all."""


def fits(logits: Tensor) -> bool:
    """Whether the kernels take these logits (B, K): fp32, and few enough."""
    rows, columns = map(triton.next_power_of_2, logits.shape)
    return bool(rows * columns <= NUMBERS) and logits.dtype == torch.float32


def loss(
    logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float,
) -> Tensor:
    """losses.distillation_loss, or the cross-entropy if there are no teacher's logits.

    logits, teacher_logits: (B, K); labels: (B,) int64; returns a scalar.
    """
    return _Loss.apply(logits, teacher_logits, labels, alpha, temperature, label_smoothing)


def tally(logits: Tensor, labels: Tensor, mean: Tensor, total: Tensor, correct: Tensor) -> None:
    """Add B times the `mean` loss to `total`, and the correctly classified images to `correct`.

    logits: (B, K); labels: (B,) int64; the others are scalars on the GPU.
    """
    rows, columns = map(triton.next_power_of_2, logits.shape)
    _tally[(1,)](
        logits.detach().contiguous(), labels, mean.detach(), total, correct, *logits.shape,
        ROWS=rows, COLUMNS=columns, num_warps=4,
    )  # fmt: skip


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        alpha: float,
        temperature: float,
        label_smoothing: float,
    ) -> Tensor:
        rows, columns = map(triton.next_power_of_2, logits.shape)
        mean = torch.empty((), device=logits.device)
        gradient = torch.empty(logits.shape, device=logits.device)
        teacher = None if teacher_logits is None else teacher_logits.contiguous()
        _loss[(1,)](
            logits.contiguous(), teacher, labels, mean, gradient, *logits.shape,
            alpha, temperature, label_smoothing,
            TAUGHT=teacher is not None, ROWS=rows, COLUMNS=columns, num_warps=4,
        )  # fmt: skip
        ctx.save_for_backward(gradient)
        return mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None, None, None, None, None


@triton.jit
def _log_softmax(values, inside):
    values = tl.where(inside, values, float("-inf"))
    shifted = values - tl.max(values, 1)[:, None]
    return shifted - tl.log(tl.sum(tl.exp(shifted), 1))[:, None]


@triton.jit(do_not_specialize=["batch", "classes", "alpha", "temperature", "smoothing"])
def _loss(
    logits, teacher, labels, mean, gradient, batch, classes, alpha, temperature, smoothing,
    TAUGHT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (row < batch)[:, None] & (column < classes)[None, :]
    offsets = row[:, None] * classes + column[None, :]
    values = tl.load(logits + offsets, mask=inside, other=0.0)
    label = tl.load(labels + row, mask=row < batch, other=0)
    wanted = tl.where(column[None, :] == label[:, None], 1.0 - smoothing, 0.0) + smoothing / classes
    # Padding columns are -inf in the log-softmax, and -inf times 0 would be NaN.
    log_p = tl.where(inside, _log_softmax(values, (column < classes)[None, :]), 0.0)
    total = -tl.sum(tl.where(inside, wanted * log_p, 0.0), 1)
    slope = tl.exp(log_p) - wanted
    if TAUGHT:
        taught = tl.load(teacher + offsets, mask=inside, other=0.0) / temperature
        log_t = tl.where(inside, _log_softmax(taught, (column < classes)[None, :]), 0.0)
        log_s = _log_softmax(values / temperature, (column < classes)[None, :])
        log_s = tl.where(inside, log_s, 0.0)
        soft = tl.sum(tl.where(inside, tl.exp(log_t) * (log_t - log_s), 0.0), 1)
        total = (1.0 - alpha) * total + alpha * temperature * temperature * soft
        slope = (1.0 - alpha) * slope
        slope += alpha * temperature * (tl.exp(log_s) - tl.exp(log_t))
    tl.store(mean, tl.sum(tl.where(row < batch, total, 0.0), 0) / batch)
    tl.store(gradient + offsets, slope / batch, mask=inside)


@triton.jit(do_not_specialize=["batch", "classes"])
def _tally(
    logits, labels, mean, total, correct, batch, classes,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    inside = (row < batch)[:, None] & (column < classes)[None, :]
    offsets = row[:, None] * classes + column[None, :]
    values = tl.load(logits + offsets, mask=inside, other=float("-inf"))
    label = tl.load(labels + row, mask=row < batch, other=-1)
    hits = tl.sum(((tl.argmax(values, 1) == label) & (row < batch)).to(tl.int64), 0)
    tl.store(correct, tl.load(correct) + hits)
    tl.store(total, tl.load(total) + tl.load(mean) * batch)
