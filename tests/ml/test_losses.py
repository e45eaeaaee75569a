import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dsdctl.ml.losses import (
    decoupled_divergence,
    distillation_loss,
    generalized_cross_entropy,
    logit_error,
    softened_divergence,
    symmetric_cross_entropy,
)

BATCH, CLASSES = 6, 5


@pytest.fixture
def logits() -> Tensor:
    stream = torch.Generator().manual_seed(0)
    return 3 * torch.randn(BATCH, CLASSES, generator=stream, dtype=torch.float64)


@pytest.fixture
def teacher_logits() -> Tensor:
    stream = torch.Generator().manual_seed(1)
    return 3 * torch.randn(BATCH, CLASSES, generator=stream, dtype=torch.float64)


LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def softmax(logits: Tensor) -> Tensor:
    powers = logits.exp()
    return powers / powers.sum(1, keepdim=True)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("tau", [1.0, 2.5, 10.0])
def test_loss_and_gradient_have_their_closed_forms(
    logits: Tensor, teacher_logits: Tensor, alpha: float, tau: float
) -> None:
    p, soft, target = softmax(logits), softmax(logits / tau), softmax(teacher_logits / tau)
    hard_loss = sum(-p[row, label].log() for row, label in enumerate(LABELS)) / BATCH
    divergence = (target * (target / soft).log()).sum() / BATCH
    one_hot = torch.eye(CLASSES, dtype=torch.float64)[LABELS]
    gradient = ((1 - alpha) * (p - one_hot) + alpha * tau * (soft - target)) / BATCH

    student = logits.clone().requires_grad_()
    loss = distillation_loss(student, teacher_logits, LABELS, alpha=alpha, temperature=tau)
    loss.backward()

    expected = (1 - alpha) * hard_loss + alpha * tau**2 * divergence
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(student.grad, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_labels_are_smoothed_as_by_torch_and_in_the_cross_entropy_alone(
    logits: Tensor, teacher_logits: Tensor, alpha: float
) -> None:
    def loss(**smoothing: float) -> Tensor:
        weights = {"alpha": alpha, "temperature": 2.5}
        return distillation_loss(logits, teacher_logits, LABELS, **weights, **smoothing)

    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.2)
    more = criterion(logits, LABELS) - F.cross_entropy(logits, LABELS)
    expected = loss() + (1 - alpha) * more
    torch.testing.assert_close(loss(label_smoothing=0.2), expected, rtol=1e-12, atol=1e-12)


def test_alpha_zero_is_cross_entropy(logits: Tensor, teacher_logits: Tensor) -> None:
    loss = distillation_loss(logits, teacher_logits, LABELS, alpha=0.0, temperature=10.0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, LABELS), rtol=0, atol=0)


def test_alpha_weighs_the_divergence_so_alpha_one_ignores_the_labels(
    logits: Tensor, teacher_logits: Tensor
) -> None:
    losses = [
        distillation_loss(logits, teacher_logits, labels, alpha=1.0, temperature=10.0)
        for labels in (LABELS, (LABELS + 1) % CLASSES)
    ]
    assert losses[0] == losses[1]
    assert losses[0] > 0


def test_a_student_that_equals_its_teacher_has_no_divergence(logits: Tensor) -> None:
    loss = distillation_loss(logits, logits + 7.0, LABELS, alpha=1.0, temperature=10.0)
    assert float(loss) == pytest.approx(0, abs=1e-12)


def probabilities_of_labels(logits: Tensor) -> Tensor:
    return softmax(logits)[torch.arange(BATCH), LABELS]


@pytest.mark.parametrize("q", [0.1, 0.7, 1.0])
def test_generalized_cross_entropy_has_its_closed_form(logits: Tensor, q: float) -> None:
    p = probabilities_of_labels(logits)
    one_hot = torch.eye(CLASSES, dtype=torch.float64)[LABELS]
    gradient = p[:, None] ** q * (softmax(logits) - one_hot) / BATCH
    student = logits.clone().requires_grad_()
    loss = generalized_cross_entropy(student, LABELS, q=q)
    loss.backward()
    torch.testing.assert_close(loss.detach(), ((1 - p**q) / q).mean())
    torch.testing.assert_close(student.grad, gradient)


def test_generalized_cross_entropy_lies_between_two_others(logits: Tensor) -> None:
    absolute = (softmax(logits) - torch.eye(CLASSES, dtype=torch.float64)[LABELS]).abs().sum(1)
    at_one = generalized_cross_entropy(logits, LABELS, q=1.0)
    torch.testing.assert_close(at_one, absolute.mean() / 2)
    towards_zero = generalized_cross_entropy(logits, LABELS, q=1e-9)
    torch.testing.assert_close(towards_zero, F.cross_entropy(logits, LABELS))


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 1.0), (6.0, 0.1), (0.0, 2.0)])
def test_symmetric_cross_entropy_takes_both_entropies(
    logits: Tensor, alpha: float, beta: float
) -> None:
    """Written out, with the logarithm of the labels' zeros taken as -4."""
    p, one_hot = softmax(logits), torch.eye(CLASSES, dtype=torch.float64)[LABELS]
    forth = -(one_hot * p.log()).sum(1)
    back = -(p * torch.where(one_hot == 1, 0.0, -4.0)).sum(1)
    loss = symmetric_cross_entropy(logits, LABELS, alpha=alpha, beta=beta)
    torch.testing.assert_close(loss, (alpha * forth + beta * back).mean())


@pytest.mark.parametrize("scale", [1, 1e4])
def test_robust_losses_stay_finite_where_a_label_is_all_but_impossible(scale: float) -> None:
    logits = scale * torch.tensor([[0.0, 30.0], [30.0, 0.0]]).requires_grad_()
    labels = torch.tensor([0, 0])
    for loss in (
        generalized_cross_entropy(logits, labels, q=0.7),
        symmetric_cross_entropy(logits, labels, alpha=0.0, beta=1.0),
    ):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert 0 < float(loss.detach()) <= 4 and bool(gradient.isfinite().all())


def test_the_error_of_logits_is_their_mean_square(logits: Tensor, teacher_logits: Tensor) -> None:
    squares = [
        (float(a) - float(b)) ** 2
        for a, b in zip(logits.flatten(), teacher_logits.flatten(), strict=True)
    ]
    assert float(logit_error(logits, teacher_logits, LABELS)) == pytest.approx(
        sum(squares) / (BATCH * CLASSES)
    )


def decoupled_one_by_one(
    logits: Tensor, teacher_logits: Tensor, tau: float
) -> list[tuple[float, float, float]]:
    """TCKD, NCKD and the teacher's probability of the label, of each image, from probabilities."""
    found = []
    for row, label in enumerate(LABELS.tolist()):
        p, t = (softmax(each / tau)[row].tolist() for each in (logits, teacher_logits))
        rest = [k for k in range(CLASSES) if k != label]
        pairs = [(t[label], p[label]), (1 - t[label], 1 - p[label])]
        target = sum(a * math.log(a / b) for a, b in pairs)
        among = [(t[k] / (1 - t[label]), p[k] / (1 - p[label])) for k in rest]
        found.append((target, sum(a * math.log(a / b) for a, b in among), t[label]))
    return found


@pytest.mark.parametrize("tau", [1.0, 4.0])
@pytest.mark.parametrize(("target", "nontarget"), [(1.0, 8.0), (0.0, 1.0), (2.0, 0.0)])
def test_decoupled_divergence_weighs_both_parts(
    logits: Tensor, teacher_logits: Tensor, target: float, nontarget: float, tau: float
) -> None:
    parts = decoupled_one_by_one(logits, teacher_logits, tau)
    expected = tau**2 * sum(target * t + nontarget * n for t, n, _ in parts) / BATCH
    weights = {"target_weight": target, "nontarget_weight": nontarget}
    loss = decoupled_divergence(logits, teacher_logits, LABELS, temperature=tau, **weights)
    assert float(loss) == pytest.approx(expected, rel=1e-10)


def test_the_divergence_is_made_of_the_decoupled_parts(
    logits: Tensor, teacher_logits: Tensor
) -> None:
    parts = decoupled_one_by_one(logits, teacher_logits, 3.0)
    whole = softened_divergence(logits, teacher_logits, LABELS, temperature=3.0)
    expected = 9 * sum(t + (1 - sure) * n for t, n, sure in parts) / BATCH
    assert float(whole) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("classes", [2, 5])
def test_decoupled_divergence_stays_finite_where_a_teacher_is_sure(classes: int) -> None:
    labels = torch.tensor([0, 1])
    student = torch.zeros(2, classes).requires_grad_()
    teacher = 1e4 * torch.eye(classes)[:2]
    weights = {"target_weight": 1.0, "nontarget_weight": 8.0}
    loss = decoupled_divergence(student, teacher, labels, temperature=1.0, **weights)
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == pytest.approx(math.log(classes), rel=1e-5)
    assert bool(gradient.isfinite().all())
