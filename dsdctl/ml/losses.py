"""The cross-entropy and the distillation loss of the paper (eq. 2), and alternatives to both."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from dsdctl.ml import gpu

LabelLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits (B, K), labels (B,)) -> scalar."""

TeacherLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits (B, K), the teacher's (B, K), labels (B,)) -> scalar."""

LOG_OF_ZERO = -4.0
"""The value that stands for log 0 in the reverse cross-entropy (A in Wang et al. 2019)."""


def is_fused(logits: Tensor) -> bool:
    """Whether logits (B, K) go to the fused kernels of ml/gpu/loss.py, for loss and metrics."""
    if not gpu.used(logits):
        return False
    from dsdctl.ml.gpu.loss import fits

    return fits(logits)


def label_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy, with label smoothing as in torch.nn.functional.cross_entropy.

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

    DSD2, eq. 2. logits, teacher_logits: (B, K); labels: (B,) int64; returns a scalar. `alpha`
    weighs the KL term (in some libraries the cross-entropy); `temperature` is tau. Labels are
    smoothed in the CE term alone, since a teacher's targets are soft already.
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
    soft = _softened_kl(logits, teacher_logits, temperature)
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def generalized_cross_entropy(logits: Tensor, labels: Tensor, *, q: float) -> Tensor:
    """Mean of (1 - p^q) / q, where p is the label's probability (Zhang and Sabuncu 2018, GCE).

    logits: (B, K); labels: (B,) int64; returns a scalar. `q` is in (0, 1]: GCE tends to the
    cross-entropy as q goes to 0, and is half the mean absolute error at 1. The paper's truncation
    is not implemented.
    """
    nll = F.cross_entropy(logits, labels, reduction="none")
    return -torch.expm1(-q * nll).mean() / q


def symmetric_cross_entropy(logits: Tensor, labels: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Mean of alpha CE + beta RCE (Wang et al. 2019, SCE); RCE is the reverse cross-entropy, with
    the prediction as the target and the label as the estimate.

    logits: (B, K); labels: (B,) int64; returns a scalar. With log 0 = -4, as in the paper, RCE is
    4 (1 - p), where p is the label's probability.
    """
    nll = F.cross_entropy(logits, labels, reduction="none")
    reverse = LOG_OF_ZERO * torch.expm1(-nll)
    return alpha * nll.mean() + beta * reverse.mean()


def softened_divergence(
    logits: Tensor, teacher_logits: Tensor, _labels: Tensor, *, temperature: float
) -> Tensor:
    """tau^2 KL(teacher / tau || student / tau), batch mean (Hinton et al. 2015).

    Shapes as in TeacherLoss.
    """
    return temperature**2 * _softened_kl(logits, teacher_logits, temperature)


def _softened_kl(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(teacher / tau || student / tau) of logits (B, K), batch mean: a scalar."""
    return F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def logit_error(logits: Tensor, teacher_logits: Tensor, _labels: Tensor) -> Tensor:
    """Squared error of the logits, mean over batch and classes (Kim et al. 2021).

    Shapes as in TeacherLoss.
    """
    return F.mse_loss(logits, teacher_logits)


def decoupled_divergence(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    target_weight: float,
    nontarget_weight: float,
) -> Tensor:
    """tau^2 (target_weight TCKD + nontarget_weight NCKD), batch mean (Zhao et al. 2022, DKD).

    With p_t the teacher's probability of the label, KL = TCKD + (1 - p_t) NCKD: TCKD is the KL
    divergence of the binary distribution "label or not", NCKD that of the distribution among the
    other classes. Shapes as in TeacherLoss.
    """
    is_label = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    (target, others), (teacher_target, teacher_others) = (
        _decoupled(each / temperature, is_label) for each in (logits, teacher_logits)
    )
    kl = functools.partial(F.kl_div, reduction="batchmean", log_target=True)
    nckd = kl(others, teacher_others)
    return temperature**2 * (target_weight * kl(target, teacher_target) + nontarget_weight * nckd)


def _decoupled(logits: Tensor, is_label: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, 2) of the label and of not the label, and (B, K) among the others.

    In the latter the label has a large negative number, whose exponential is zero: with minus
    infinity, 0 * -inf would make the divergence NaN.
    """
    others = logits.masked_fill(is_label, torch.finfo(logits.dtype).min / 4)
    whole = torch.logsumexp(logits, dim=1)
    label = logits.masked_fill(~is_label, 0).sum(1)
    pair = torch.stack([label - whole, torch.logsumexp(others, dim=1) - whole], dim=1)
    return pair, F.log_softmax(others, dim=1)
