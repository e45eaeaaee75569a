import copy

import pytest
import torch
from batches import epoch_batches
from networks import build_network
from samples import UNIT, in_float64
from torch import Tensor, nn

from dsdctl.ml.batches import BATCH
from dsdctl.ml.data import Split
from dsdctl.ml.losses import distillation_loss
from dsdctl.ml.networks.network import Network
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.teacher import (
    TeacherLogits,
    build_table,
    cached_logits,
    direct_logits,
    distillation_from,
)
from dsdctl.ml.train import Trainer
from dsdctl.ml.views import Batch, Normalization, ViewReader, Views

CPU = torch.device("cpu")
SETTINGS = Settings(2, 8, 0.05, 0.9, 1e-4, (), 0.1, "fp32")
ROUNDED = {"rtol": 2 * UNIT[torch.float32], "atol": 1e-12}
"""Of numbers that are the same in float64 and were rounded to float32."""


@pytest.fixture
def teacher(reader: ViewReader) -> Network:
    """A network in train mode whose BatchNorm statistics differ from a batch's own."""
    network = in_float64(build_network("vgg-like", 1, 4, seed=5, depth=2, width=4, pool=2))
    with torch.no_grad():
        network.classifier.weight.mul_(20)
        network(reader(torch.arange(20), torch.zeros(20, dtype=torch.int64)))
    return network


@torch.no_grad()
def eval_logits(teacher: nn.Module, images: Tensor) -> Tensor:
    return copy.deepcopy(teacher).eval()(images).float()  # type: ignore[no-any-return]


def test_the_table_holds_the_teachers_logits_view_by_view(
    teacher: Network, reader: ViewReader, pictures: Split
) -> None:
    table = build_table(teacher, reader, 44, "fp32", CPU)
    assert table.shape == (44, 18, 4)
    assert table.dtype == torch.float32
    indices = torch.randperm(44, generator=torch.Generator().manual_seed(0))
    for view in range(18):
        views = torch.full((44,), view)
        images = reader(indices, views)
        batch = Batch(images, pictures.labels[indices], indices, views)
        expected = eval_logits(teacher, images)
        torch.testing.assert_close(cached_logits(table)(batch), expected, **ROUNDED)
        torch.testing.assert_close(direct_logits(teacher)(batch), expected, **ROUNDED)
    assert float((table[:, 0] - table[:, 17]).abs().max()) > 0.1  # views differ


def test_a_table_of_more_images_than_one_batch_keeps_their_order(teacher: Network) -> None:
    count = BATCH + 3
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 4, 4, 1), generator=stream, dtype=torch.uint8)
    reader = ViewReader(images, Normalization((0.4,), (0.3,)), Views(flip=True))
    table = build_table(teacher, reader, count, "fp32", CPU)
    assert table.shape == (count, 2, 4)
    chosen = torch.tensor([0, BATCH - 1, BATCH, count - 1])
    expected = eval_logits(teacher, reader(chosen, torch.ones(4, dtype=torch.int64)))
    torch.testing.assert_close(table[chosen, 1], expected, **ROUNDED)


def test_a_student_agrees_for_ten_steps_however_its_teacher_is_asked(
    teacher: Network, pictures: Split
) -> None:
    normalization = Normalization((0.4,), (0.3,))
    images, labels = pictures.images[:40], pictures.labels[:40]  # five batches an epoch
    reader = ViewReader(images, normalization, Views(flip=True, crop=1))
    table = build_table(teacher, reader, 40, "fp32", CPU)

    def student(logits: TeacherLogits) -> dict[str, Tensor]:
        network = in_float64(build_network("vgg-like", 1, 4, seed=0, depth=1, width=4, pool=2))
        trainer = Trainer(
            network, None, SETTINGS, distillation_from(logits, alpha=0.8, temperature=10.0)
        )
        for epoch in range(2):
            trainer.train_epoch(reader, labels, seed=0, level=0, epoch=epoch)
        return network.state_dict()

    direct, looked = student(direct_logits(teacher)), student(cached_logits(table))
    other = student(cached_logits(table.roll(1, dims=0)))
    for name, tensor in direct.items():
        # A logit in a million is rounded otherwise, by 1e-7 of it: ten steps may amplify that.
        torch.testing.assert_close(looked[name], tensor, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(other["classifier.weight"], direct["classifier.weight"], atol=1e-3)


def test_the_distilled_loss_sees_the_batchs_own_teacher_logits_and_labels(
    teacher: Network, reader: ViewReader, pictures: Split
) -> None:
    batch = next(epoch_batches(reader, pictures.labels, 8, seed=0, level=0, epoch=0))
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    expected = distillation_loss(
        logits, eval_logits(teacher, batch.images), batch.labels, alpha=0.6, temperature=3.0
    )
    loss = distillation_from(direct_logits(teacher), alpha=0.6, temperature=3.0)(logits, batch)
    torch.testing.assert_close(loss, expected)


def test_a_teacher_is_never_changed(teacher: Network, reader: ViewReader, pictures: Split) -> None:
    before = copy.deepcopy(teacher.state_dict())
    build_table(teacher, reader, 44, "fp32", CPU)
    loss = distillation_from(direct_logits(teacher), alpha=0.8, temperature=10.0)
    student = build_network("vgg-like", 1, 4, seed=0, depth=1, width=4, pool=2)
    Trainer(student, None, SETTINGS, loss).train_epoch(
        reader, pictures.labels, seed=0, level=0, epoch=0
    )
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in teacher.parameters())
