import copy
import math
from dataclasses import replace

import pytest
import torch
from batches import epoch_batches
from networks import build_network
from samples import SETTINGS, UNIT, in_float64, random_images
from torch import Tensor, nn
from torch.nn.utils import prune

from dsdctl.ml.data import Split
from dsdctl.ml.device import precision
from dsdctl.ml.divergence import Diverged
from dsdctl.ml.masks import (
    Masks,
    count_nonzero,
    dense_masks,
    prunable_weights,
    remove_lowest,
)
from dsdctl.ml.networks.network import Network
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.scores import magnitude_scores
from dsdctl.ml.train import Epoch, Trainer
from dsdctl.ml.views import ViewReader


def small_network() -> Network:
    return build_network("vgg-like", 1, 4, seed=0, depth=2, width=4, pool=2)


def half_pruned(network: Network) -> Masks:
    weights = prunable_weights(network)
    masks = dense_masks(weights)
    return remove_lowest(magnitude_scores(weights), masks, count_nonzero(masks) // 2)


def train(
    network: Network,
    masks: Masks | None,
    reader: ViewReader,
    labels: Tensor,
    settings: Settings = SETTINGS,
    *,
    seed: int = 0,
    level: int = 0,
) -> list[Epoch]:
    trainer = Trainer(network, masks, settings)
    return [
        trainer.train_epoch(reader, labels, seed=seed, level=level, epoch=epoch)
        for epoch in range(settings.epochs)
    ]


def plain_loop(
    network: Network, masks: Masks | None, reader: ViewReader, labels: Tensor
) -> list[tuple[float, float, float]]:
    """Train as a PyTorch tutorial would; (learning rate, mean loss, accuracy) of each epoch."""
    for name, mask in (masks or {}).items():
        prune.custom_from_mask(network.get_submodule(name.removesuffix(".weight")), "weight", mask)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2, foreach=False, fused=False
    )
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 2], gamma=0.1)
    criterion = nn.CrossEntropyLoss()
    epochs = []
    network.train()
    for epoch in range(3):
        losses, hits = 0.0, 0
        for batch in epoch_batches(reader, labels, 8, seed=0, level=0, epoch=epoch):
            logits = network(batch.images)
            loss = criterion(logits.float(), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item() * len(batch.labels)
            hits += int((logits.argmax(1) == batch.labels).sum())
        epochs.append((schedule.get_last_lr()[0], losses / len(labels), hits / len(labels)))
        schedule.step()
    for name in masks or {}:
        prune.remove(network.get_submodule(name.removesuffix(".weight")), "weight")
    return epochs


@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
def test_training_equals_a_plain_loop_with_torchs_own_pruning(
    pruned: bool, pictures: Split, reader: ViewReader
) -> None:
    network = in_float64(small_network())
    masks = half_pruned(network) if pruned else None
    theirs = copy.deepcopy(network)
    initial = copy.deepcopy(network.state_dict())

    epochs = train(network, masks, reader, pictures.labels)
    expected = plain_loop(theirs, masks, reader, pictures.labels)

    assert [epoch.epoch for epoch in epochs] == [0, 1, 2]
    assert [epoch.lr for epoch in epochs] == pytest.approx([lr for lr, _, _ in expected])
    # The losses of a batch are float32, and so is their sum over an epoch's six batches.
    assert [epoch.loss for epoch in epochs] == pytest.approx(
        [loss for _, loss, _ in expected], rel=10 * UNIT[torch.float32]
    )
    assert [epoch.accuracy for epoch in epochs] == [accuracy for _, _, accuracy in expected]
    trained = network.state_dict()
    assert trained.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(trained[name], tensor)
        assert not torch.equal(tensor, initial[name])  # so the agreement says something


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_steps_are_the_fused_sgds_on_the_networks_own_parameters_bit_for_bit(name: str) -> None:
    network = build_network("vgg-like", 3, 4, seed=0, depth=2, width=16, pool=2)
    theirs = copy.deepcopy(network)
    assert theirs.features[3].weight.stride() == (144, 1, 48, 16)  # channels-last
    trainer = Trainer(network, None, SETTINGS)
    optimizer = torch.optim.SGD(
        theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2, fused=True
    )
    for batch in random_images(5, 8, 3, 8, 8):
        for trained in (network, theirs):
            with precision(name, torch.device("cpu")):
                logits = trained(batch.contiguous(memory_format=torch.channels_last))
            loss = logits.float().square().mean()
            if trained is network:
                trainer.update.step(loss)
            else:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    state = trainer.state()
    for key, tensor in theirs.state_dict().items():
        assert torch.equal(state[f"network/{key}"], tensor), key
    for key, parameter in theirs.named_parameters():
        momentum = state[f"momentum/{key}"]
        assert torch.equal(momentum, optimizer.state[parameter]["momentum_buffer"]), key


def test_what_a_state_is_loaded_from_stays_as_it_is(pictures: Split, reader: ViewReader) -> None:
    first, second = (Trainer(small_network(), None, SETTINGS) for _ in range(2))
    first.train_epoch(reader, pictures.labels, seed=0, level=0, epoch=0)
    before = {name: tensor.clone() for name, tensor in first.state().items()}
    second.load_state(first.state())
    second.train_epoch(reader, pictures.labels, seed=0, level=0, epoch=1)
    for name, tensor in first.state().items():
        assert torch.equal(tensor, before[name]), name
        assert not torch.equal(second.state()[name], tensor), name


def test_removed_weights_stay_exactly_zero_and_the_others_move(
    pictures: Split, reader: ViewReader
) -> None:
    network = small_network()
    masks = half_pruned(network)
    before = {name: weight.detach().clone() for name, weight in prunable_weights(network).items()}
    trainer = Trainer(network, masks, SETTINGS)
    for batch in epoch_batches(reader, pictures.labels, 8, seed=0, level=1, epoch=0):
        trainer.update.step(nn.functional.cross_entropy(network(batch.images), batch.labels))
        for name, weight in prunable_weights(network).items():
            assert not weight.detach()[~masks[name]].any()
    for name, weight in prunable_weights(network).items():
        kept = masks[name]
        assert bool((weight.detach()[kept] != before[name][kept]).all())
    remaining = sum(int(weight.count_nonzero()) for weight in prunable_weights(network).values())
    assert remaining == count_nonzero(masks)


def test_weight_decay_reaches_every_parameter() -> None:
    network = small_network()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    trainer = Trainer(network, None, SETTINGS)
    loss = torch.zeros(()) * sum(parameter.sum() for parameter in network.parameters())
    trainer.update.step(loss)  # no gradient at all: only the decay acts
    for name, value in network.named_parameters():
        torch.testing.assert_close(value.detach(), before[name] * (1 - 0.05 * 1e-2))


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.1), (79, 0.1), (80, 0.01), (119, 0.01), (120, 0.001), (159, 0.001)]
)
def test_the_papers_schedule_scales_the_rate_at_its_milestones(epoch: int, lr: float) -> None:
    settings = Settings(160, 128, 0.1, 0.9, 1e-4, (80, 120), 0.1, "fp32")
    assert settings.lr_at(epoch) == pytest.approx(lr)


def test_a_rate_that_is_far_too_high_is_reported_as_diverged(
    pictures: Split, reader: ViewReader
) -> None:
    settings = Settings(3, 8, 1e30, 0.9, 1e-2, (), 0.1, "fp32")
    with pytest.raises(Diverged, match="not finite in epoch 0") as caught:
        train(small_network(), None, reader, pictures.labels, settings)
    assert caught.value.epoch == 0


def test_the_same_seed_level_and_epoch_train_to_the_same_bits(
    pictures: Split, reader: ViewReader
) -> None:
    def trained(global_seed: int, seed: int = 0, level: int = 0) -> dict[str, Tensor]:
        torch.manual_seed(global_seed)
        network = small_network()
        train(network, half_pruned(network), reader, pictures.labels, seed=seed, level=level)
        return network.state_dict()

    first, again = trained(1), trained(2)
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
    for other in (trained(1, seed=1), trained(1, level=1)):
        assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_training_leaves_global_random_state_alone(pictures: Split, reader: ViewReader) -> None:
    state = torch.get_rng_state()
    epochs = train(small_network(), None, reader, pictures.labels)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(math.isfinite(epoch.loss) for epoch in epochs)


def test_a_network_in_eval_mode_is_trained_in_train_mode(
    pictures: Split, reader: ViewReader
) -> None:
    network, other = small_network().eval(), small_network()
    train(network, None, reader, pictures.labels)
    train(other, None, reader, pictures.labels)
    for name, tensor in other.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def test_bf16_steps_use_the_weights_of_the_step_before(pictures: Split, reader: ViewReader) -> None:
    """The same bits as where autocast begins anew, and so without copies of weights, each step."""
    network, theirs = small_network(), small_network()
    settings = replace(SETTINGS, epochs=1, precision="bf16")
    (epoch,) = train(network, None, reader, pictures.labels, settings)

    optimizer = torch.optim.SGD(
        theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-2, fused=True
    )
    losses = 0.0
    for batch in epoch_batches(reader, pictures.labels, 8, seed=0, level=0, epoch=0):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = theirs(batch.images)
        loss = nn.functional.cross_entropy(logits.float(), batch.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.item() * len(batch.labels)

    assert epoch.loss == pytest.approx(losses / len(pictures), rel=10 * UNIT[torch.float32])
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
