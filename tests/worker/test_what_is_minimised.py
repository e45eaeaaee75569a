"""What a spec says of the loss is what a level is trained on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import only_problem, resolved, write_recipe
from torch import Tensor

from dsdctl.ml.losses import (
    decoupled_divergence,
    distillation_loss,
    generalized_cross_entropy,
    label_loss,
    logit_error,
    softened_divergence,
    symmetric_cross_entropy,
)
from dsdctl.ml.teacher import cached_logits
from dsdctl.ml.views import Batch
from dsdctl.spec.distillation import DistillationLoss
from dsdctl.spec.training import Training
from dsdctl.worker.losses import distillation_loss_of, label_loss_of

STREAM = torch.Generator().manual_seed(0)
TABLE = torch.randn(20, 3, 4, generator=STREAM)
LOGITS = torch.randn(6, 4, generator=STREAM)
BATCH = Batch(
    images=torch.zeros(6, 1, 8, 8),
    labels=torch.tensor([0, 1, 2, 3, 0, 1]),
    indices=torch.tensor([19, 3, 4, 0, 7, 7]),
    views=torch.tensor([0, 1, 2, 0, 1, 2]),
)
TAUGHT = TABLE[BATCH.indices, BATCH.views]


def training(**options: Any) -> Training:
    return Training(epochs=1, batch_size=6, **options)


HARD: list[tuple[dict[str, Any], Tensor]] = [
    ({}, label_loss(LOGITS, BATCH.labels)),
    ({"label_smoothing": 0.1}, label_loss(LOGITS, BATCH.labels, 0.1)),
    ({"loss": {"kind": "gce"}}, generalized_cross_entropy(LOGITS, BATCH.labels, q=0.7)),
    ({"loss": {"kind": "gce", "q": 0.5}}, generalized_cross_entropy(LOGITS, BATCH.labels, q=0.5)),
    (
        {"loss": {"kind": "sce", "beta": 2.0}},
        symmetric_cross_entropy(LOGITS, BATCH.labels, alpha=0.1, beta=2.0),
    ),
]
DKD = {"target_weight": 2.0, "nontarget_weight": 3.0}
SOFT: list[tuple[dict[str, Any], Tensor]] = [
    (
        {"kind": "kl", "temperature": 2.0},
        softened_divergence(LOGITS, TAUGHT, BATCH.labels, temperature=2.0),
    ),
    ({"kind": "mse"}, logit_error(LOGITS, TAUGHT, BATCH.labels)),
    (
        {"kind": "dkd", **DKD},
        decoupled_divergence(LOGITS, TAUGHT, BATCH.labels, temperature=10.0, **DKD),
    ),
]


@pytest.mark.parametrize(("options", "expected"), HARD, ids=str)
def test_a_level_without_a_teacher_is_trained_on_its_loss(
    options: dict[str, Any], expected: Tensor
) -> None:
    assert torch.equal(label_loss_of(training(**options))(LOGITS, BATCH), expected)


@pytest.mark.parametrize(("options", "hard"), HARD, ids=str)
@pytest.mark.parametrize(("distill", "soft"), SOFT, ids=str)
def test_a_taught_level_mixes_its_loss_with_what_cached_logits_teach(
    distill: dict[str, Any], soft: Tensor, options: dict[str, Any], hard: Tensor
) -> None:
    how = DistillationLoss(alpha=0.6, **distill)
    loss = distillation_loss_of(training(**options), how, cached_logits(TABLE))
    torch.testing.assert_close(loss(LOGITS, BATCH), 0.4 * hard + 0.6 * soft)


def test_the_papers_loss_is_the_same_to_the_last_bit() -> None:
    loss = distillation_loss_of(
        training(label_smoothing=0.1), DistillationLoss(), cached_logits(TABLE)
    )
    weights = {"alpha": 0.8, "temperature": 10.0, "label_smoothing": 0.1}
    assert torch.equal(
        loss(LOGITS, BATCH), distillation_loss(LOGITS, TAUGHT, BATCH.labels, **weights)
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": {"kind": "mae"}}, '.kind: is "mae" (allowed: cross-entropy, gce, sce)'),
        ({"loss": {"kind": "gce", "q": 0}}, "loss.q: is 0 (allowed: > 0)"),
        ({"loss": {"q": 0.7}}, "loss.q: goes with `kind: gce`, not with cross-entropy; null"),
        ({"loss": {"kind": "gce", "beta": 1}}, "loss.beta: goes with `kind: sce`, not with gce"),
        ({"loss": {"kind": "sce", "alpha": 0, "beta": 0}}, "loss: `alpha` or `beta` must be above"),
        (
            {"loss": {"kind": "gce"}, "label_smoothing": 0.1},
            "`label_smoothing` goes with `loss: {kind: cross-entropy}`, not with gce; null",
        ),
    ],
    ids=str,
)
def test_losses_that_are_not_offered_are_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    given = {f"training.{key}": value for key, value in changes.items()}
    assert reason in only_problem(lambda: resolved(tmp_path, given))


@pytest.mark.parametrize(
    ("distill", "reason"),
    [
        ({"kind": "l2"}, 'distill.kind: is "l2" (allowed: kl, mse, dkd)'),
        ({"kind": "mse", "temperature": 4}, "temperature: goes with `kind: kl` or `dkd`, not with"),
        ({"target_weight": 1}, "distill.target_weight: goes with `kind: dkd`, not with kl"),
        ({"kind": "dkd", "nontarget_weight": -1}, "nontarget_weight: is -1 (allowed: >= 0)"),
    ],
    ids=str,
)
def test_ways_to_distil_that_are_not_offered_are_refused(
    tmp_path: Path, distill: dict[str, Any], reason: str
) -> None:
    write_recipe(tmp_path, "mine", distill={"teacher": "dense", **distill})
    assert reason in only_problem(lambda: resolved(tmp_path, {"recipes": ["mine"]}))
