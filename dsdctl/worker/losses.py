"""The loss function of a level, from its spec's loss and teacher."""

import functools

from torch import Tensor

from dsdctl.ml.losses import (
    LabelLoss,
    TeacherLoss,
    decoupled_divergence,
    generalized_cross_entropy,
    label_loss,
    logit_error,
    softened_divergence,
    symmetric_cross_entropy,
)
from dsdctl.ml.teacher import TeacherLogits, distillation_from, mixed_from
from dsdctl.ml.train import LossFunction, cross_entropy
from dsdctl.ml.views import Batch
from dsdctl.spec.distillation import DistillationLoss
from dsdctl.spec.training import Loss, Training


def label_loss_of(training: Training) -> LossFunction:
    """The loss of a level without a teacher."""
    robust = _robust_loss(training.loss)
    if robust is None:
        return functools.partial(cross_entropy, label_smoothing=training.label_smoothing)

    def loss(logits: Tensor, batch: Batch) -> Tensor:
        return robust(logits, batch.labels)

    return loss


def distillation_loss_of(
    training: Training, distillation: DistillationLoss, teacher: TeacherLogits
) -> LossFunction:
    """The loss of a level that learns from labels and a teacher."""
    robust, alpha = _robust_loss(training.loss), distillation.alpha
    if robust is None and distillation.kind == "kl":  # the paper's loss, which has a fused kernel
        assert distillation.temperature is not None
        return distillation_from(
            teacher,
            alpha=alpha,
            temperature=distillation.temperature,
            label_smoothing=training.label_smoothing,
        )
    hard = robust or functools.partial(label_loss, label_smoothing=training.label_smoothing)
    return mixed_from(teacher, alpha=alpha, hard=hard, soft=_teacher_loss(distillation))


def _robust_loss(loss: Loss) -> LabelLoss | None:
    """A loss that is robust to label noise; None for the cross-entropy."""
    match loss.kind:
        case "gce":
            assert loss.q is not None
            return functools.partial(generalized_cross_entropy, q=loss.q)
        case "sce":
            assert loss.alpha is not None and loss.beta is not None
            return functools.partial(symmetric_cross_entropy, alpha=loss.alpha, beta=loss.beta)
        case "cross-entropy":
            return None


def _teacher_loss(distillation: DistillationLoss) -> TeacherLoss:
    temperature = distillation.temperature
    match distillation.kind:
        case "mse":
            return logit_error
        case "kl":
            assert temperature is not None
            return functools.partial(softened_divergence, temperature=temperature)
        case "dkd":
            target, nontarget = distillation.target_weight, distillation.nontarget_weight
            assert temperature is not None and target is not None and nontarget is not None
            return functools.partial(
                decoupled_divergence,
                temperature=temperature,
                target_weight=target,
                nontarget_weight=nontarget,
            )
