import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dsdctl.ml.losses import distillation_loss

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
