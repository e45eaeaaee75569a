"""Rewinding into level 0's training: the state is what a plain loop has after so many batches."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import epoch_batches
from builders import only_trajectory, planned, spec_data, write
from networks import build_network
from soak import dsdctl, result_bytes
from torch import Tensor

from dsdctl.cost.ledger import (
    Macs,
    level_pflops_executed,
    measuring_pflops,
    rewind_checkpoint_pflops,
)
from dsdctl.cost.remaining import (
    disk_bytes,
    levels_to_run,
    missing_levels,
    missing_rewind_checkpoints,
)
from dsdctl.errors import StoppedError
from dsdctl.keys import LevelIdentity, key_of
from dsdctl.ml.train import cross_entropy
from dsdctl.ml.views import Normalization, ViewReader, Views
from dsdctl.plan.next_work import unfinished
from dsdctl.plan.progress import Progress
from dsdctl.results import Measured
from dsdctl.store import maintenance
from dsdctl.store.store import Store
from dsdctl.worker.level import LevelTask, WorkerConfig, load_data, run_task

pytestmark = [pytest.mark.numerics, pytest.mark.usefixtures("one_deterministic_thread")]

TRAINING = {"epochs": 4, "batch_size": 200, "schedule": {"milestones": [1]}}
"""Five batches an epoch, of which the last has 62 images."""


def rewind_checkpoint(folder: Path, iterations: int) -> LevelIdentity:
    retrain = {"mode": "rewind", "iteration": iterations}
    trajectory = only_trajectory(folder, {"training": TRAINING, "pruning.retrain": retrain})
    found = trajectory.rewind_checkpoint(None)
    assert found is not None
    return found


def open_store(folder: Path) -> Store:
    store = Store(folder)
    store.open_for_writing()
    return store


def compute(identity: LevelIdentity, store: Store, **options: Any) -> None:
    place = WorkerConfig(store=str(store.root), device="cpu", checkpoint_every=0)
    task = LevelTask(identity=identity, dataset_path="")
    assert run_task(task, place, **options).level is None  # not the next level of any trajectory


def weights_of_a_plain_loop(identity: LevelIdentity, batches: int) -> dict[str, Tensor]:
    """SGD for so many batches in the order of level 0, without the trainer."""
    data = load_data(identity.images, identity.noise, Path(), torch.device("cpu"))
    options = identity.network.model_dump(exclude={"arch"})
    network = build_network("vgg-like", 1, 10, seed=0, **options).train()
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True
    )
    normalize = identity.images.normalize
    reader = ViewReader(
        data.train.images, Normalization(normalize.mean, normalize.std), Views(False, 0)
    )
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = 0.1 if epoch == 0 else 0.1 * 0.1
        for batch in epoch_batches(reader, data.train.labels, 200, seed=0, level=0, epoch=epoch):
            if not batches:
                return network.state_dict()
            batches -= 1
            optimizer.zero_grad()
            torch.autograd.backward(cross_entropy(network(batch.images), batch))
            optimizer.step()
    raise AssertionError("more batches than level 0 has")


@pytest.mark.parametrize("iterations", [1, 5, 7, 19])
def test_the_state_is_that_of_a_plain_loop_bit_for_bit(iterations: int, tmp_path: Path) -> None:
    identity, store = rewind_checkpoint(tmp_path, iterations), open_store(tmp_path / "store")
    compute(identity, store)
    stored = store.levels.tensors(key_of(identity), "weights")
    expected = weights_of_a_plain_loop(identity, iterations)
    assert stored.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(stored[name], tensor), name


def test_the_state_is_measured_and_knows_how_far_it_went(tmp_path: Path) -> None:
    identity, store = rewind_checkpoint(tmp_path, 7), open_store(tmp_path / "store")
    compute(identity, store)
    level = store.levels.get(key_of(identity))
    assert level is not None and isinstance(level.result, Measured)
    assert (level.result.level, level.result.sparsity) == (0, 0.0)
    (folder,) = tmp_path.glob("store/levels/*/*")
    epochs = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in epochs] == [0, 1]
    # The accuracy of the second is that of its two batches of 200.
    assert epochs[1]["accuracy"] * 400 == pytest.approx(round(epochs[1]["accuracy"] * 400))


def test_interrupted_after_every_epoch_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    identity = rewind_checkpoint(tmp_path, 13)
    whole, parts = open_store(tmp_path / "whole"), open_store(tmp_path / "parts")
    compute(identity, whole)
    for _ in range(2):
        answers = iter((False, True))
        with pytest.raises(StoppedError):
            compute(identity, parts, stop=lambda answers=answers: next(answers))
        assert parts.levels.get(key_of(identity)) is None
    compute(identity, parts)
    assert result_bytes(tmp_path / "parts") == result_bytes(tmp_path / "whole")


MODES = [
    "continue",
    {"mode": "continue", "lr_scale": 0.1},
    "rewind",
    {"mode": "rewind", "epoch": 1},
    {"mode": "rewind", "iteration": 5},
    {"mode": "rewind", "iteration": 7},
    "reinit",
]


MODES_SPEC = {
    "training": TRAINING,
    "pruning": {"fraction": 0.3, "levels": 2},
    "matrix": {"pruning.retrain": MODES},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all modes were run."""
    folder = tmp_path_factory.mktemp("modes")
    write(folder / "modes.yaml", spec_data(MODES_SPEC))
    done = dsdctl(folder, "run", "modes.yaml", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    (folder / "stderr").write_text(done.stderr)
    return folder


def identities(folder: Path) -> dict[Path, LevelIdentity]:
    return {
        file.parent: LevelIdentity.model_validate_json(file.read_text())
        for file in folder.glob("dsdctl-store/levels/*/*/identity.json")
    }


def test_all_modes_share_one_level_0_and_equal_states_are_one(run: Path) -> None:
    found = identities(run).values()
    assert [i.iterations for i in found if i.level == 0 and i.iterations is None] == [None]
    # Epoch 1 begins after five batches.
    assert sorted(i.iterations for i in found if i.iterations is not None) == [5, 7]
    assert sum(i.level > 0 for i in found) == 2 * 6
    assert "[13/13]" in (run / "stderr").read_text()


def test_level_0_is_the_same_whether_or_not_it_is_rewound_into(run: Path, tmp_path: Path) -> None:
    trajectory = only_trajectory(tmp_path, {"training": TRAINING})
    store = open_store(tmp_path / "store")
    place = WorkerConfig(store=str(store.root), device="cpu")
    run_task(LevelTask(identity=trajectory.level_identity(0, None, None), dataset_path=""), place)
    alone = result_bytes(store.root)
    assert alone
    assert alone.items() <= result_bytes(run / "dsdctl-store").items()


def test_a_scaled_learning_rate_is_that_of_every_epoch_from_level_1_on(run: Path) -> None:
    rates = {}
    for folder, identity in identities(run).items():
        lines = (folder / "epochs.jsonl").read_text().splitlines()
        scale = identity.pruning.retrain.lr_scale if identity.pruning else 1.0
        rates.setdefault((identity.level > 0, scale), []).append(
            [json.loads(line)["lr"] for line in lines]
        )
    assert rates[True, 0.1] == 2 * [pytest.approx([0.01, 0.001, 0.001, 0.001])]
    for level_rates in rates[True, 1.0] + rates[False, 1.0]:
        assert level_rates == pytest.approx([0.1, 0.01, 0.01, 0.01][: len(level_rates)])


def test_nothing_is_left_to_run_and_the_store_is_whole(run: Path) -> None:
    store = Store(run / "dsdctl-store")
    progress = Progress(planned(run, MODES_SPEC), store)
    assert not list(unfinished(progress))
    assert not missing_rewind_checkpoints(progress)
    found = list(maintenance.entries(store))
    assert not [problem for entry in found for problem in maintenance.check(entry)]
    lines = " ".join(maintenance.describe(store, entry) for entry in found)
    for batches in (5, 7):
        assert lines.count(f"seed 0, level 0 after {batches} batches: test ") == 1


def test_the_plan_counts_what_modes_share_once(tmp_path: Path) -> None:
    plan = planned(tmp_path, MODES_SPEC)
    # Epoch 1 and iteration 5 are one trajectory, read by two variants.
    assert len(plan.trajectories) == 6
    progress = Progress(plan, Store(tmp_path / "nowhere"))
    assert list(missing_levels(progress).values()) == [3, 2, 2, 2, 2, 2]
    early = missing_rewind_checkpoints(progress).values()
    shares = [rewinding[0].setup.rewind_share for rewinding in early]
    # Seven batches are 862 + 2 * 200 of four epochs of 862 images.
    assert shares == [pytest.approx(1 / 4), pytest.approx((862 + 400) / (4 * 862))]


def test_of_trajectories_run_by_themselves_each_level_counts(tmp_path: Path) -> None:
    """What one shares with another that is not run is its own to run."""
    plan = planned(tmp_path, MODES_SPEC)
    progress = Progress(plan, Store(tmp_path / "nowhere"))
    last = list(plan.trajectories)[-1:]
    assert levels_to_run(progress, last) == {last[0]: 3}
    pieces = [
        13 + len(missing_rewind_checkpoints(progress)),
        3 + len(missing_rewind_checkpoints(progress, last)),
    ]
    assert disk_bytes(progress) / pieces[0] == disk_bytes(progress, last) / pieces[1]


def test_a_dense_teacher_rewinds_to_nothing(tmp_path: Path) -> None:
    def states(recipe: str) -> int:
        changes = {
            "recipes": [recipe],
            "pruning.retrain": "continue",
            "teacher.pruning": {"retrain": {"mode": "rewind", "epoch": 1}},
        }
        progress = Progress(planned(tmp_path, changes), Store(tmp_path / "nowhere"))
        return len(missing_rewind_checkpoints(progress))

    assert (states("kd-dense-teacher"), states("kd-pruned-teacher")) == (0, 1)


def test_lists_of_sparsities_share_the_levels_that_they_have_in_common(tmp_path: Path) -> None:
    lists = [[0.5], [0.5, 0.9], [0.9]]
    changes = {"pruning": {}, "matrix": {"pruning.sparsities": lists}}
    progress = Progress(planned(tmp_path, changes), Store(tmp_path / "nowhere"))
    assert list(missing_levels(progress).values()) == [2, 1, 1]


def test_a_state_to_rewind_to_costs_its_batches_and_a_measurement(tmp_path: Path) -> None:
    def macs(_setup: object) -> Macs:
        return Macs(1000, {})

    retrain = {"mode": "rewind", "epoch": 1}
    trajectory = only_trajectory(tmp_path, {"training": TRAINING, "pruning.retrain": retrain})
    measuring = measuring_pflops(trajectory.setup, macs(None))
    training = level_pflops_executed(trajectory, macs) - measuring
    assert rewind_checkpoint_pflops(trajectory, macs) == pytest.approx(training / 4 + measuring)
