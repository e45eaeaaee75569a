"""The cross-entropy and the distillation loss of the paper (eq. 2), and others in their place."""

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
"""What log 0 is taken as in the reverse cross-entropy (Wang et al. 2019)."""


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
    soft = _divergence(logits, teacher_logits, temperature)
    return (1 - alpha) * hard + alpha * temperature**2 * soft


def generalized_cross_entropy(logits: Tensor, labels: Tensor, *, q: float) -> Tensor:
    """Mean of (1 - p^q) / q, p being the probability of the label (Zhang and Sabuncu 2018, GCE).

    logits: (B, K); labels: (B,) int64; returns a scalar. `q` in (0, 1]: towards 0 it is the
    cross-entropy, at 1 half of the mean absolute error. Without the paper's truncation.
    """
    surprise = F.cross_entropy(logits, labels, reduction="none")
    return -torch.expm1(-q * surprise).mean() / q


def symmetric_cross_entropy(logits: Tensor, labels: Tensor, *, alpha: float, beta: float) -> Tensor:
    """Mean of alpha CE + beta RCE, RCE being the cross-entropy of the labels under the prediction
    (Wang et al. 2019, SCE).

    logits: (B, K); labels: (B,) int64; returns a scalar. With log 0 = -4, as in the paper, RCE is
    4 (1 - p).
    """
    surprise = F.cross_entropy(logits, labels, reduction="none")
    reverse = LOG_OF_ZERO * torch.expm1(-surprise)
    return alpha * surprise.mean() + beta * reverse.mean()


def softened_divergence(
    logits: Tensor, teacher_logits: Tensor, _labels: Tensor, *, temperature: float
) -> Tensor:
    """tau^2 KL(teacher / tau || student / tau), batch mean; shapes as in TeacherLoss."""
    return temperature**2 * _divergence(logits, teacher_logits, temperature)


def _divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(teacher / tau || student / tau), batch mean."""
    return F.kl_div(
        F.log_softmax(logits / temperature, dim=1),
        F.log_softmax(teacher_logits / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def logit_error(logits: Tensor, teacher_logits: Tensor, _labels: Tensor) -> Tensor:
    """Squared error of the logits, mean over batch and classes (Kim et al. 2021); shapes as in
    TeacherLoss."""
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

    TCKD is the divergence of the label's class against all others together, NCKD that among the
    others. KL is TCKD + (1 - the teacher's probability of the label) NCKD. Shapes as in
    TeacherLoss.
    """
    is_label = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    (target, others), (taught_target, taught_others) = (
        _decoupled(each / temperature, is_label) for each in (logits, teacher_logits)
    )
    divergence = functools.partial(F.kl_div, reduction="batchmean", log_target=True)
    among = divergence(others, taught_others)
    return temperature**2 * (
        target_weight * divergence(target, taught_target) + nontarget_weight * among
    )


def _decoupled(logits: Tensor, is_label: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, 2) of the label and of all else, and (B, K) of all else by itself.

    The label's is a large negative number there, of which the exponential is zero, not minus
    infinity, times which zero would be NaN.
    """
    others = logits.masked_fill(is_label, torch.finfo(logits.dtype).min / 4)
    whole = torch.logsumexp(logits, dim=1)
    label = logits.masked_fill(~is_label, 0).sum(1)
    pair = torch.stack([label - whole, torch.logsumexp(others, dim=1) - whole], dim=1)
    return pair, F.log_softmax(others, dim=1)
