"""What a spec may say of training: what is refused, and that the rest reaches the trainer."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import epoch_batches
from builders import only_problem, only_trajectory, resolved, write_recipe
from networks import build_network
from soak import result_bytes
from torch import Tensor, nn

from dsdctl.cost.ledger import Macs, nonzero_training_pflops
from dsdctl.errors import StoppedError
from dsdctl.keys import LevelIdentity, key_of
from dsdctl.ml.views import Normalization, ViewReader, Views
from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import Measured
from dsdctl.spec.training import Training
from dsdctl.store.store import Store
from dsdctl.worker.level import load_data, run_task
from dsdctl.worker.tasks import LevelTask, WorkerConfig

TAKE_AWAY = "; null removes an inherited value"


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("optimizer.kind", "adam", '.kind: is "adam"; did you mean adamw? (allowed: sgd, adamw)'),
        ("optimizer.nesterov", 1, ".nesterov: is 1 (allowed: a boolean)"),
        ("optimizer.betas", 0.9, ".betas: is 0.9 (allowed: an array such as [0.9, 0.999])"),
        ("schedule.kind", "polynomial", '.kind: is "polynomial" (allowed: step, cosine, constant)'),
        ("schedule.warmup", 1.5, ".warmup: is 1.5 (allowed: an integer)"),
        ("schedule.warmup", -1, ".warmup: is -1 (allowed: >= 0)"),
        ("schedule.warm_up", 1, ".warm_up: unknown key; did you mean warmup? (allowed: kind, "),
        ("clip_norm", 0, "clip_norm: is 0 (allowed: > 0)"),
        ("label_smoothing", 1, "label_smoothing: is 1 (allowed: < 1)"),
        ("clip", 1, "clip: unknown key; did you mean clip_norm?"),
        # What is another kind's.
        (
            "optimizer.betas",
            [0.9, 0.99],
            "betas: goes with `kind: adamw`, not with sgd" + TAKE_AWAY,
        ),
        ("optimizer.eps", 1e-8, "eps: goes with `kind: adamw`, not with sgd" + TAKE_AWAY),
        ("schedule.min_lr_factor", 0.1, ": goes with `kind: cosine`, not with step" + TAKE_AWAY),
        (
            "schedule",
            {"kind": "cosine", "milestones": [2]},
            "schedule.milestones: goes with `kind: step`, not with cosine" + TAKE_AWAY,
        ),
        (
            "schedule",
            {"kind": "constant", "gamma": 0.1},
            "schedule.gamma: goes with `kind: step`, not with constant" + TAKE_AWAY,
        ),
        (
            "optimizer",
            {"kind": "adamw", "lr": 0.001, "momentum": 0.9},
            "optimizer.momentum: goes with `kind: sgd`, not with adamw" + TAKE_AWAY,
        ),
        # What does not fit together.
        ("optimizer", {"kind": "adamw"}, "optimizer: `kind: adamw` needs an `lr`"),
        (
            "optimizer",
            {"kind": "adamw", "lr": 0.001, "nesterov": True},
            "optimizer: `nesterov` goes with `kind: sgd` and a momentum above 0",
        ),
        ("optimizer", {"nesterov": True, "momentum": 0}, "`nesterov` goes with `kind: sgd`"),
        ("schedule.warmup", 4, "a warm-up of 4 epochs leaves none of the 4 (allowed: at most 3)"),
    ],
)
def test_what_is_not_offered_is_refused_with_what_is(
    tmp_path: Path, path: str, value: object, reason: str
) -> None:
    problem = only_problem(lambda: resolved(tmp_path, {f"training.{path}": value}))
    assert reason in problem


@pytest.mark.parametrize("betas", [[0.9], [0.9, 0.99, 0.999], [0.9, 1]])
def test_adamw_has_two_betas_below_one(tmp_path: Path, betas: list[float]) -> None:
    changes = {"training.optimizer": {"kind": "adamw", "lr": 0.001, "betas": betas}}
    assert "training.optimizer.betas" in only_problem(lambda: resolved(tmp_path, changes))


def training_of(folder: Path, changes: dict[str, Any]) -> Training:
    (row,) = resolved(folder, changes).rows
    return row.student.training


def test_a_kind_has_torchs_defaults_and_nothing_of_the_others(tmp_path: Path) -> None:
    plain = training_of(tmp_path, {})
    assert (plain.optimizer.momentum, plain.optimizer.betas) == (0.9, None)
    assert (plain.schedule.milestones, plain.schedule.gamma) == ((), 0.1)
    assert plain.schedule.min_lr_factor is None
    changes = {"optimizer": {"kind": "adamw", "lr": 0.001}, "schedule": {"kind": "cosine"}}
    other = training_of(tmp_path, {f"training.{key}": value for key, value in changes.items()})
    defaults = torch.optim.AdamW([nn.Parameter(torch.zeros(1))]).defaults
    assert (other.optimizer.betas, other.optimizer.eps) == (defaults["betas"], defaults["eps"])
    assert (other.optimizer.momentum, other.schedule.milestones) == (None, None)
    assert other.schedule.min_lr_factor == 0


def test_null_takes_away_what_a_recipe_of_another_kind_is_laid_over(tmp_path: Path) -> None:
    given = {
        "training.optimizer": {"lr": 0.1, "momentum": 0.8},
        "training.schedule": {"milestones": [2], "gamma": 0.5, "warmup": 1},
        "recipes": ["mine"],
    }
    optimizer = {"kind": "adamw", "lr": 0.001, "momentum": None}
    schedule = {"kind": "cosine", "milestones": None, "gamma": None}
    write_recipe(tmp_path, "mine", training={"optimizer": optimizer, "schedule": schedule})
    training = training_of(tmp_path, given)
    assert (training.optimizer.kind, training.optimizer.lr) == ("adamw", 0.001)
    assert (training.schedule.kind, training.schedule.warmup) == ("cosine", 1)


ALL_OPTIONS: dict[str, Any] = {
    "training": {
        "epochs": 4,
        "batch_size": 200,
        "optimizer": {
            "kind": "adamw",
            "lr": 0.01,
            "betas": [0.8, 0.95],
            "eps": 1e-3,
            "weight_decay": 0.1,
        },
        "schedule": {"kind": "cosine", "warmup": 2, "min_lr_factor": 0.2},
        "clip_norm": 0.5,
        "label_smoothing": 0.1,
    },
    "pruning": {"fraction": 0.25, "levels": 1, "ignore": ["features.3", "last"]},
}
"""Five batches an epoch, of which the last has 62 images."""


@pytest.fixture
def trajectory(tmp_path: Path) -> Trajectory:
    return only_trajectory(tmp_path, ALL_OPTIONS)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.open_for_writing()
    return store


def compute(identity: LevelIdentity, store: Store, stop: Any = lambda: False) -> None:
    place = WorkerConfig(store=str(store.root), device="cpu", checkpoint_every=0)
    run_task(LevelTask(identity=identity, dataset_path=""), place, stop)


def both_levels(trajectory: Trajectory) -> tuple[LevelIdentity, LevelIdentity]:
    dense = trajectory.level_identity(0, None, None)
    return dense, trajectory.level_identity(1, key_of(dense), None)


def rates_of(identity: LevelIdentity, store: Store) -> list[float]:
    """The rate of each epoch's last batch, as it was recorded."""
    folder = store.levels.files(key_of(identity))[0].parent
    lines = (folder / "epochs.jsonl").read_text().splitlines()
    return [json.loads(line)["lr"] for line in lines]


def plain_loop(identity: LevelIdentity) -> tuple[dict[str, Tensor], list[float]]:
    """Level 0 of ALL_OPTIONS as one would write it; the weights and each epoch's last rate."""
    data = load_data(identity.images, identity.noise, Path(), torch.device("cpu"))
    network = build_network("vgg-like", 1, 10, seed=0, depth=2, width=4, pool=2).train()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1, fused=True
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    normalize = identity.images.normalize
    reader = ViewReader(
        data.train.pixels, Normalization(normalize.mean, normalize.std), Views(False, 0)
    )
    rates, step = [], 0
    for epoch in range(4):
        for batch in epoch_batches(reader, data.train.labels, 200, seed=0, level=0, epoch=epoch):
            step += 1
            cosine = 0.2 + 0.8 * (1 + math.cos(math.pi * max(0, epoch - 2) / 2)) / 2
            optimizer.param_groups[0]["lr"] = 0.01 * min(1, step / 10) * cosine
            optimizer.zero_grad()
            criterion(network(batch.images), batch.labels).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return network.state_dict(), rates


@pytest.mark.usefixtures("one_deterministic_thread")
def test_a_level_is_trained_as_its_spec_says(trajectory: Trajectory, store: Store) -> None:
    identity = trajectory.level_identity(0, None, None)
    compute(identity, store)
    weights, rates = plain_loop(identity)
    assert rates_of(identity, store) == pytest.approx(rates, rel=1e-12)
    trained = store.levels.tensors(key_of(identity), "weights")
    for name, tensor in weights.items():
        # A fifth of one of the twenty steps: the norm may be summed in another order, and where
        # that turns a ReLU of an image, more than the last digits change.
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=2e-3)


@pytest.mark.usefixtures("one_deterministic_thread")
def test_a_state_to_rewind_to_is_warmed_up_as_level_0_is(store: Store, tmp_path: Path) -> None:
    retrain = {"mode": "rewind", "iteration": 7}  # the second batch of the second epoch
    pruning = {**ALL_OPTIONS["pruning"], "retrain": retrain}
    identity = only_trajectory(tmp_path, {**ALL_OPTIONS, "pruning": pruning}).rewind_checkpoint(
        None
    )
    assert identity is not None
    compute(identity, store)
    assert rates_of(identity, store) == pytest.approx([0.01 * 5 / 10, 0.01 * 7 / 10])


@pytest.mark.usefixtures("one_deterministic_thread")
def test_layers_that_are_not_pruned_are_dense_in_all_that_is_recorded(
    trajectory: Trajectory, store: Store
) -> None:
    identities = both_levels(trajectory)
    for identity in identities:
        compute(identity, store)
    level = store.levels.get(key_of(identities[1]))
    assert level is not None and isinstance(level.result, Measured)
    result = level.result
    # Weights: 36, 144, 288, 576 and 8 x 2 x 2 x 10 = 320, of which 36 + 288 + 576 may go.
    assert result.total_weights == 1364
    assert result.nonzero_weights == 1364 - round(0.25 * 900)
    assert result.sparsity == 1 - result.nonzero_weights / 1364
    density = result.density_per_layer
    assert (density["features.3.weight"], density["classifier.weight"]) == (1, 1)
    assert sum(value < 1 for value in density.values()) >= 2
    macs = Macs(1000, {"features.3.weight": 600, "classifier.weight": 300})
    setup = trajectory.setup
    dense = nonzero_training_pflops(setup, macs, {})
    assert nonzero_training_pflops(setup, macs, density) == dense


@pytest.mark.usefixtures("one_deterministic_thread")
@pytest.mark.parametrize("after", [1, 2, 3])
def test_an_interrupted_level_ends_with_the_bytes_of_one_that_was_not(
    after: int, trajectory: Trajectory, store: Store, tmp_path: Path
) -> None:
    """Level 0 and a pruned one, each stopped within its warm-up or after it."""
    other = Store(tmp_path / "other")
    other.open_for_writing()
    for identity in both_levels(trajectory):
        compute(identity, store)
        asked = iter(range(after + 1))
        with pytest.raises(StoppedError, match=f"stopped after epoch {after}"):
            compute(identity, other, lambda asked=asked: next(asked) == after)
        compute(identity, other)
    assert result_bytes(other.root) == result_bytes(store.root)
