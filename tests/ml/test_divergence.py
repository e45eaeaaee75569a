"""A training that diverges is noticed within its epoch, and one that comes back is left alone."""

import math
from dataclasses import replace

import pytest
import torch
from networks import build_network
from samples import SETTINGS
from torch import Tensor

from dsdctl.ml.divergence import BATCHES, BOUND, Diverged, LossWatch
from dsdctl.ml.train import Trainer, cross_entropy
from dsdctl.ml.views import Batch, Normalization, ViewReader, Views


def watched(*means: float) -> None:
    """Look after each BATCHES batches of 10 images whose mean losses are these."""
    watch, total, images = LossWatch(epoch=3), 0.0, 0
    for number, mean in enumerate(means, 1):
        total, images = total + 10 * BATCHES * mean, images + 10 * BATCHES
        watch.look(number * BATCHES, images, torch.tensor(total, dtype=torch.float64))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_has_diverged(value: float) -> None:
    with pytest.raises(Diverged, match=f"not finite in epoch 3, seen after {2 * BATCHES} batches"):
        watched(2.3, value)


def test_what_stays_beyond_the_bound_has_diverged() -> None:
    with pytest.raises(Diverged, match=f"stays above 1,000,000 in epoch 3.* {3 * BATCHES} batches"):
        watched(2.3, 2 * BOUND, 3 * BOUND)


def test_what_comes_back_has_not() -> None:
    watched(2.3, 177.0, 2 * BOUND, 2.2, 2 * BOUND, 0.1)


def ended(mean: float, *, before: float = 2.3, is_last: bool = False) -> None:
    """An epoch of three batches of 10 images ends whose mean loss is this."""
    watch = LossWatch(epoch=3, before=before, is_last=is_last)
    for batch in range(1, 4):
        watch.look(batch, 10 * batch, torch.tensor(10 * batch * mean))
    watch.end(3, 30, 30 * mean)


def test_epochs_shorter_than_a_look_are_looked_at_at_their_end() -> None:
    with pytest.raises(Diverged, match="stays above 1,000,000 in epoch 3, seen after 3 batches"):
        ended(2 * BOUND, before=2 * BOUND)
    with pytest.raises(Diverged, match="not finite in epoch 3, seen after 3 batches"):
        ended(math.nan)
    ended(2 * BOUND)
    ended(2.2, before=2 * BOUND)


def test_no_level_ends_beyond_the_bound() -> None:
    with pytest.raises(Diverged, match="ends above 1,000,000 in epoch 3, seen after 3 batches"):
        ended(2 * BOUND, is_last=True)
    ended(2.2, before=2 * BOUND, is_last=True)


def test_a_training_ends_long_before_its_epoch() -> None:
    images = torch.zeros(20 * BATCHES, 4, 4, 1, dtype=torch.uint8)
    labels = torch.arange(len(images)) % 2
    reader = ViewReader(images, Normalization((0.5,), (0.25,)), Views())
    network = build_network("mlp", 1, 2, seed=0, image_size=(4, 4), hidden=(4,))
    steps = 0

    def counted(logits: Tensor, batch: Batch) -> Tensor:
        nonlocal steps
        steps += 1
        return cross_entropy(logits, batch)

    trainer = Trainer(network, None, replace(SETTINGS, batch_size=2, lr=1e30), counted)
    with pytest.raises(Diverged) as caught:
        trainer.train_epoch(reader, labels, seed=0, level=0, epoch=0)
    assert steps == caught.value.batch == BATCHES
