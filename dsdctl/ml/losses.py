"""The cross-entropy, and the distillation loss of the paper (eq. 2)."""

import torch.nn.functional as F
from torch import Tensor

from dsdctl.ml import gpu


def is_fused(logits: Tensor) -> bool:
    """Whether the kernels of ml/gpu/loss.py take the batch: one gives its loss, one tallies it."""
    if not gpu.used(logits):
        return False
    from dsdctl.ml.gpu.loss import fits

    return fits(logits)


def label_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy against labels mixed with an even share of all classes.

    logits: (B, K); labels: (B,) int64; returns a scalar.
    """
    if is_fused(logits):
        from dsdctl.ml.gpu.loss import loss

        off = {"alpha": 0.0, "temperature": 1.0}
        return loss(logits, None, labels, **off, label_smoothing=label_smoothing)
    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    temperature: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """(1 - alpha) CE(student, label) + alpha tau^2 KL(teacher / tau || student / tau), batch mean.

    logits, teacher_logits: (B, K); labels: (B,) int64; returns a scalar. `alpha` weighs the KL
    term (some libraries mean the cross-entropy's weight); `temperature` is tau (DSD2, eq. 2).
    Labels are smoothed in the CE term alone: a teacher's logits are soft already.
    """
    if is_fused(logits):
        from dsdctl.ml.gpu.loss import loss

        return loss(
            logits,
            teacher_logits,
            labels,
            alpha=alpha,
            temperature=temperature,
            label_smoothing=label_smoothing,
        )
    hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    soft = F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - alpha) * hard + alpha * temperature**2 * soft
