"""Rates, optimizers and clipping agree with torch's own, step by step."""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from batches import epoch_batches
from networks import build_network
from samples import SETTINGS, random_images
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
)

from dsdctl.ml.data import Split
from dsdctl.ml.masks import count_nonzero, dense_masks, prunable_weights, remove_lowest
from dsdctl.ml.networks.network import Network
from dsdctl.ml.optimizers import STATE, Settings, make_optimizer, set_lr
from dsdctl.ml.scores import magnitude_scores
from dsdctl.ml.train import Trainer
from dsdctl.ml.views import ViewReader

BATCHES = 7
"""Of an epoch."""

OPTIMIZERS: list[dict[str, Any]] = [
    {},
    {"nesterov": True},
    {"momentum": 0.0},
    {"optimizer": "adamw", "lr": 0.01},
    {"optimizer": "adamw", "lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4},
]


def rates(settings: Settings) -> list[float]:
    """The learning rate of every step."""
    places = itertools.product(range(settings.epochs), range(BATCHES))
    return [settings.lr_at(epoch, batch, BATCHES) for epoch, batch in places]


def rates_of_torch(settings: Settings, after: type[LRScheduler], **options: Any) -> list[float]:
    """torch's LinearLR batch by batch while it warms up, `after` epoch by epoch from there on."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=settings.lr)
    steps = settings.warmup * BATCHES
    found: list[float] = []

    def train(schedule: LRScheduler, count: int) -> None:
        for _ in range(count):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        schedule.step()

    if steps:
        warmup = LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)
        for _ in range(steps):
            train(warmup, 1)
    schedule = after(optimizer, **options)
    for _ in range(settings.warmup, settings.epochs):
        train(schedule, BATCHES)
    return found


@pytest.mark.parametrize("warmup", [0, 1, 3])
class TestRates:
    """torch's rates are products and sums of one step after the other, ours closed forms: some
    hundred roundings of 1e-16 lie between them."""

    def test_in_steps_are_those_of_multi_step_lr(self, warmup: int) -> None:
        settings = replace(SETTINGS, epochs=12, milestones=(5, 9), gamma=0.3, warmup=warmup)
        late = [milestone - warmup for milestone in settings.milestones]
        expected = rates_of_torch(settings, MultiStepLR, milestones=late, gamma=0.3)
        assert rates(settings) == pytest.approx(expected, rel=1e-12)
        assert len(set(expected)) >= 3

    @pytest.mark.parametrize("low", [0.0, 0.1])
    def test_along_a_cosine_are_those_of_cosine_annealing_lr(self, warmup: int, low: float) -> None:
        settings = replace(
            SETTINGS, epochs=12, schedule="cosine", min_lr_factor=low, warmup=warmup, milestones=()
        )
        expected = rates_of_torch(
            settings, CosineAnnealingLR, T_max=12 - warmup, eta_min=low * settings.lr
        )
        assert rates(settings) == pytest.approx(expected, rel=1e-12, abs=1e-15)

    def test_that_are_constant_are_warmed_up_alike(self, warmup: int) -> None:
        settings = replace(SETTINGS, epochs=12, schedule="constant", warmup=warmup, milestones=())
        expected = rates_of_torch(settings, ConstantLR, factor=1, total_iters=0)
        assert rates(settings) == pytest.approx(expected, rel=1e-12)

    def test_differ_from_those_without_a_warm_up_only_there(self, warmup: int) -> None:
        plain = replace(SETTINGS, epochs=12, milestones=(2, 6))
        warmed = replace(plain, warmup=warmup)
        steps = warmup * BATCHES
        # Its last step is at the full rate.
        assert rates(warmed)[max(0, steps - 1) :] == rates(plain)[max(0, steps - 1) :]
        below = zip(rates(warmed)[: max(0, steps - 1)], rates(plain), strict=False)
        assert all(0 < rate < full for rate, full in below)


def test_a_milestone_within_the_warm_up_scales_what_is_warmed_up() -> None:
    settings = replace(SETTINGS, lr=1.0, epochs=4, milestones=(1,), gamma=0.5, warmup=2)
    assert [settings.lr_at(epoch, batch, 2) for epoch in range(3) for batch in range(2)] == [
        *(1 / 4, 2 / 4),
        *(0.5 * 3 / 4, 0.5 * 4 / 4),
        *(0.5, 0.5),
    ]


def small_network() -> Network:
    return build_network("vgg-like", 3, 4, seed=0, depth=2, width=8, pool=2)


def pruned_with_torch(network: nn.Module, masks: dict[str, Tensor]) -> None:
    for name, mask in masks.items():
        prune.custom_from_mask(network.get_submodule(name.removesuffix(".weight")), "weight", mask)


def unfused(settings: Settings, network: nn.Module) -> torch.optim.Optimizer:
    """torch's optimizer in its plainest form, parameter by parameter."""
    plain: dict[str, Any] = {"foreach": False, "fused": False}
    plain |= {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(), betas=settings.betas, eps=settings.eps, **plain
        )
    return torch.optim.SGD(
        network.parameters(), momentum=settings.momentum, nesterov=settings.nesterov, **plain
    )


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    stream = torch.Generator().manual_seed(3)
    for images in random_images(count, 8, 3, 8, 8).double():
        yield images, torch.randint(0, 4, (8,), generator=stream)


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1e6])
@pytest.mark.parametrize("pruned", [False, True], ids=["dense", "pruned"])
@pytest.mark.parametrize("options", OPTIMIZERS, ids=str)
def test_each_step_is_that_of_torchs_optimizer_pruning_and_clipping(
    options: dict[str, Any], pruned: bool, clip_norm: float | None
) -> None:
    """In float64, whose rounding of 1e-16 a dozen steps amplify by far less than 1e6."""
    settings = replace(SETTINGS, **options, clip_norm=clip_norm, warmup=2, epochs=3)
    network = small_network().double()
    theirs = copy.deepcopy(network)
    weights = prunable_weights(network)
    masks = dense_masks(weights)
    if pruned:
        masks = remove_lowest(magnitude_scores(weights), masks, count_nonzero(masks) // 2)
        pruned_with_torch(theirs, masks)
    trainer = Trainer(network, masks if pruned else None, settings)
    optimizer = unfused(settings, theirs)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 10) * 0.1 ** ((step >= 5) + (step >= 10))
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    clipped = 0
    for number, (images, labels) in enumerate(batches(12)):
        trainer.update.set_lr(settings.lr_at(number // 5, number % 5, 5))
        trainer.update.step(criterion(network(images), labels))

        optimizer.zero_grad()
        criterion(theirs(images), labels).backward()
        if clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(theirs.parameters(), clip_norm)
            clipped += int(norm > clip_norm)
        optimizer.step()
        schedule.step()

        theirs(images[:2])  # torch's pruning renews `weight` in the forward pass
        for name, weight in prunable_weights(theirs).items():
            torch.testing.assert_close(weights[name], weight, rtol=1e-10, atol=1e-10)
    assert clipped == (12 if clip_norm == 0.05 else 0)
    for name, parameter in network.named_parameters():
        other = dict(theirs.named_parameters()).get(name)
        if other is not None:  # else it is pruned, and compared above
            torch.testing.assert_close(parameter, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", OPTIMIZERS, ids=str)
def test_an_epoch_is_a_loop_with_torchs_fused_optimizer_bit_for_bit(
    options: dict[str, Any], pictures: Split, reader: ViewReader
) -> None:
    settings = replace(SETTINGS, **options, warmup=1)
    network = build_network("vgg-like", 1, 4, seed=0, depth=2, width=4, pool=2)
    theirs = copy.deepcopy(network)
    trainer = Trainer(network, None, settings)
    optimizer = make_optimizer(settings, theirs.parameters(), torch.device("cpu"))
    theirs.train()
    for epoch in range(settings.epochs):
        seen = trainer.train_epoch(reader, pictures.labels, seed=0, level=0, epoch=epoch)
        found = epoch_batches(reader, pictures.labels, 8, seed=0, level=0, epoch=epoch)
        for number, batch in enumerate(found):  # 44 images are 6 batches
            set_lr(optimizer, settings.lr_at(epoch, number, 6))
            optimizer.zero_grad()
            nn.functional.cross_entropy(theirs(batch.images), batch.labels).backward()
            optimizer.step()
        assert number == 5
        assert seen.lr == settings.lr_at(epoch, 5, 6)
    state = trainer.state()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(state[f"network/{name}"], tensor), name
    kept = {kind for name, _ in theirs.named_parameters() for kind in STATE.values()
            if f"{kind}/{name}" in state}  # fmt: skip
    for name, parameter in theirs.named_parameters():
        for kind, tensor in optimizer.state[parameter].items():
            if tensor is not None:
                assert torch.equal(state[f"{STATE[kind]}/{name}"], tensor), (kind, name)
    adam = {"step", "exp_avg", "exp_avg_sq"}
    momentum = {"momentum"} if settings.momentum else set()
    assert kept == (adam if settings.optimizer == "adamw" else momentum)


def test_adamws_decay_is_apart_from_the_gradient_and_on_all_parameters() -> None:
    settings = replace(SETTINGS, optimizer="adamw", lr=0.05, weight_decay=0.1)
    network = small_network()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    loss = torch.zeros(()) * sum(parameter.sum() for parameter in network.parameters())
    Trainer(network, None, settings).update.step(loss)  # no gradient at all: only the decay acts
    for name, value in network.named_parameters():
        torch.testing.assert_close(value.detach(), before[name] * (1 - 0.05 * 0.1))


def test_removed_weights_stay_zero_under_adamw_and_count_in_no_norm() -> None:
    """If they did, the gradients that are left would be scaled down to nothing."""
    settings = replace(SETTINGS, optimizer="adamw", clip_norm=1.0)
    network = small_network()
    weights = prunable_weights(network)
    masks = dense_masks(weights)
    masks["classifier.weight"][:] = False
    trainer = Trainer(network, masks, settings)
    loss = 1e6 * weights["classifier.weight"].sum() + network.classifier.bias.sum() / 100
    trainer.update.step(loss)
    assert not bool(weights["classifier.weight"].any())
    moved = trainer.state()["exp_avg/classifier.bias"]
    torch.testing.assert_close(moved, torch.full((4,), (1 - settings.betas[0]) / 100))
