"""`dsdctl rehearse`: what it trains, what it says, what it leaves, and what `plan` makes of it."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from builders import paper_macs, planned, spec_data, write
from soak import dsdctl, ended, start, wait_until, workers
from test_resume import HERE
from tiny import TINY

from dsdctl.cost import throughput
from dsdctl.cost.forecast import by_rehearsal, plan_for_cluster, seconds_estimate
from dsdctl.cost.ledger import PETA, macs_per_trained_image
from dsdctl.cost.throughput import workload
from dsdctl.data.facts import is_there
from dsdctl.errors import describe_os_error
from dsdctl.keys import key_of
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.plan.time import too_long
from dsdctl.run.rehearsal import AFTER_WARM_UP, BATCHES, batches_of, workloads
from dsdctl.spec.catalog import DatasetName
from dsdctl.store.checkpoints import Checkpoint
from dsdctl.store.store import Store

ONE = {"recipes": ["vanilla"], "seeds": [0]}
DIVERGING = {
    "training.batch_size": 50,
    "training.optimizer": {"lr": 1000, "weight_decay": 1},
}


def spec(folder: Path, changes: dict[str, Any]) -> Path:
    return write(folder / "spec.yaml", spec_data(changes))


def files_in(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def time_of(folder: Path, spec_file: str) -> str:
    """What `plan` says of the time."""
    done = dsdctl(folder, "plan", spec_file, "--store", "store", "--device", "cpu")
    (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == ["time"]]
    return " ".join(line.split()[1:])


@pytest.mark.long
def test_each_distinct_training_is_rehearsed_and_nothing_but_its_rate_kept(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    assert time_of(tmp_path, "tiny.yaml").startswith("unknown: nothing was run or rehearsed on cpu")
    done = dsdctl(tmp_path, "rehearse", "tiny.yaml", "--store", "store", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for line, names in zip(
        lines[:3],
        (
            "vanilla+early-stop+entropy-early-stop seeds 0, 1: vgg-like, ",
            "teacher seed 0: vgg-like, ",
            "kd-dense-teacher seeds 0, 1; kd-pruned-teacher seeds 0, 1: vgg-like, ",
        ),
        strict=True,
    ):
        # 863 images in five batches, twice.
        assert line.startswith(f"{names}10 batches: loss finite, ")
        assert line.endswith(" of resident memory") and " images/s, " in line
    assert lines[3] == "" and lines[4].startswith("plan at these rates (")
    assert files_in(tmp_path) == {"tiny.yaml", "store/store.json", "store/calibration.json"}
    said = time_of(tmp_path, "tiny.yaml")
    assert said.endswith(", by a rehearsal, which leaves out pruning and loading")
    assert lines[5] == f"  time  {said}"


@pytest.mark.long
def test_a_rehearsal_of_all_batches_sees_the_losses_of_level_0(tmp_path: Path) -> None:
    """It is the same training: same initialization, images, order and noise."""
    spec(tmp_path, {**ONE, "pruning.levels": 0, "training.epochs": 2})
    arguments = ("spec.yaml", "--store", "store", "--device", "cpu")
    done = dsdctl(tmp_path, "rehearse", *arguments, "--json")
    (seen,) = json.loads(done.stdout)["workloads"]
    assert dsdctl(tmp_path, "run", *arguments).returncode == 0
    (file,) = (tmp_path / "store").glob("levels/*/*/epochs.jsonl")
    losses = [json.loads(line)["loss"] for line in file.read_text().splitlines()]
    assert (seen["batches"], seen["losses"]) == (2 * 9, losses)
    assert "rehearsal" not in time_of(tmp_path, "spec.yaml")


@pytest.mark.long
def test_random_images_stand_for_a_data_set_that_is_not_there(tmp_path: Path) -> None:
    """Nothing is downloaded or prepared; a teacher without a table is called, at random weights."""
    changes = {
        "dataset": {"name": "cifar10", "root": "nowhere"},
        "recipes": ["kd-dense-teacher"],
        "teacher.table": "never",
        "student.depth": 1,
        "teacher.depth": 1,
    }
    spec(tmp_path, changes)
    line = ("rehearse", "spec.yaml", "--store", "store", "--device", "cpu", "--batches", "2")
    done = dsdctl(tmp_path, *line, "--json")
    assert done.returncode == 0, done.stderr
    assert "cifar10: not in nowhere; random images and labels instead" in done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "dsdctl.run.rehearsal/1"
    for one in found["workloads"]:
        assert (one["batches"], one["diverged"], one["failure"]) == (2, None, None)
        assert one["images_per_second"] > 0
        assert one["peak_bytes"] > 50_000 * 32 * 32 * 3
    student = found["workloads"][1]
    assert student["labels"] == ["kd-dense-teacher seed 0"]
    assert files_in(tmp_path) == {"spec.yaml", "store/store.json", "store/calibration.json"}
    assert found["seconds_estimate"] > 0


def test_a_data_set_is_there_in_its_own_files_or_prepared(tmp_path: Path) -> None:
    def there(*names: DatasetName) -> list[bool]:
        return [is_there(name, tmp_path) for name in names]

    assert there("digits", "npz", "image-folder") == [True] * 3
    assert there("cifar10", "cifar100n", "flowers102", "imagenet") == [False] * 4
    (tmp_path / "dsdctl-prepared" / "cifar100-1").mkdir(parents=True)
    assert there("cifar10", "cifar100", "cifar100n") == [False, True, True]
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert there("cifar10", "cifar10n", "flowers102") == [True, True, False]


def test_a_training_that_diverges_is_said_with_what_to_try(tmp_path: Path) -> None:
    spec(tmp_path, {**ONE, **DIVERGING})
    done = dsdctl(tmp_path, "rehearse", "spec.yaml", "--store", "store", "--device", "cpu")
    assert done.returncode == 3
    assert "DIVERGES, the training loss is not finite in epoch " in done.stdout
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: 1 of 1 distinct trainings diverge; try a warm-up")
    assert all(key in error for key in ("schedule.warmup", "optimizer.lr", "clip_norm"))
    assert files_in(tmp_path / "store") == {"store.json"}
    assert "time  unknown: what diverges or fails tells no rate" in done.stdout


@pytest.mark.long
def test_a_loss_beyond_all_bounds_at_a_short_end_diverges_too(tmp_path: Path) -> None:
    """Of a rehearsal and of a level, whose losses have not been looked at before."""
    network = {"student": {"arch": "mlp", "hidden": [16]}, "training.optimizer": {"lr": 1000}}
    spec(tmp_path, {**ONE, **network, "training.epochs": 1, "training.batch_size": 64})
    done = dsdctl(tmp_path, "rehearse", "spec.yaml", "--batches", "20", "--device", "cpu")
    assert done.returncode == 3
    assert (
        "DIVERGES, the training loss ends above 1,000,000 in epoch 0, seen after 14 batches"
        in done.stdout
    )
    done = dsdctl(tmp_path, "run", "spec.yaml", "--jobs", "1", "--device", "cpu")
    assert done.returncode == 3
    assert "level 0 diverged in epoch 0" in done.stderr


def test_where_the_memory_is_full_a_smaller_batch_is_what_to_try() -> None:
    """One training runs at a time: there are no --jobs to be fewer."""
    said = describe_os_error(MemoryError(), smaller="a smaller batch")
    assert said == "the memory is full, try a smaller batch"


def test_bad_input_is_refused_and_nothing_written(tmp_path: Path) -> None:
    spec(tmp_path, {**ONE, "training.epochs": 0})
    done = dsdctl(tmp_path, "rehearse", "spec.yaml", "--store", "store")
    assert done.returncode == 2 and "training.epochs" in done.stderr
    assert files_in(tmp_path) == {"spec.yaml"}


@pytest.mark.linux
@pytest.mark.long
@pytest.mark.parametrize(
    ("to_worker", "number", "code", "said"),
    [
        (False, signal.SIGINT, 130, "interrupted"),
        (False, signal.SIGTERM, 143, "interrupted"),
        (True, signal.SIGKILL, 3, "1 of 1 distinct trainings failed"),
    ],
    ids=["Ctrl-C", "SIGTERM", "killed"],
)
def test_an_interruption_leaves_no_process_and_no_rate(
    to_worker: bool, number: int, code: int, said: str, tmp_path: Path
) -> None:
    spec(tmp_path, {**ONE, "training.epochs": 100_000})
    line = ("rehearse", "spec.yaml", "--store", "store", "--batches", 900_000, "--device", "cpu")
    process = start(tmp_path, *line)
    assert process.stderr is not None
    assert process.stderr.readline() == "[1/1] vanilla seed 0: 9 of 900,000 batches\n"
    (worker,) = workers(process.pid)
    os.kill(worker if to_worker else process.pid, number)
    done = ended(process)
    assert done.returncode == code
    assert said in done.stderr
    wait_until(lambda: not Path(f"/proc/{worker}").exists())
    assert files_in(tmp_path / "store") == {"store.json"}
    if to_worker:
        assert "FAILED: its process died (killed, or the memory was full)" in done.stdout


def test_trainings_are_distinct_by_network_data_settings_and_teaching(tmp_path: Path) -> None:
    changes = {
        "recipes": ["vanilla", "early-stop", "kd-dense-teacher", "kd-pruned-teacher"],
        "seeds": [0, 1],
        "label_noise.seed": "per-trajectory",
        "teacher.seed": "paired",
    }
    names = [one.first.name for one in workloads(planned(tmp_path, changes))]
    assert sorted(names) == ["kd-dense-teacher", "teacher", "vanilla+early-stop"]
    for axis, values in (
        ("student.width", [4, 5]),
        ("label_noise.rate", [0.1, 0.2]),
        ("training.clip_norm", [1.0, 2.0]),
    ):
        plan = planned(tmp_path, {**ONE, "matrix": {axis: values}})
        assert len(workloads(plan)) == 2
    plan = planned(tmp_path, {**ONE, "matrix": {"pruning.fraction": [0.1, 0.2]}})
    assert len(workloads(plan)) == 1


def test_a_rehearsal_passes_the_warm_up_and_not_the_end(tmp_path: Path) -> None:
    def rehearsed(epochs: int, warmup: int, wish: int | None = None) -> int:
        schedule = {"warmup": warmup}
        changes = {**ONE, "training.epochs": epochs, "training.schedule": schedule}
        (trajectory,) = planned(tmp_path, changes).trajectories.values()
        return batches_of(trajectory, wish)

    # 862 images in nine batches.
    assert rehearsed(1000, 0) == BATCHES
    assert rehearsed(1000, 1) == BATCHES
    assert rehearsed(1000, 500) == 500 * 9 + AFTER_WARM_UP
    assert rehearsed(4, 0) == 4 * 9
    assert rehearsed(1000, 500, 7) == 7
    assert rehearsed(4, 0, 1000) == 4 * 9


# What `plan` makes of it


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(tmp_path / "store")
    opened.open_for_writing()
    return opened


def test_rates_of_levels_replace_those_of_rehearsals(store: Store) -> None:
    throughput.learn_rehearsed(store, "cpu", {"one": 1 * PETA, "two": 2 * PETA})
    throughput.learn_rehearsed(store, "cuda", {"one": 9 * PETA})
    throughput.learn_rehearsed(store, "cpu", {"two": 4 * PETA})
    price = throughput.seconds(store, "cpu")
    assert price is not None
    assert [price(name, 8.0) for name in ("one", "two")] == [8.0, 2.0]
    price = throughput.seconds(store, "cpu", {"two": 2 * PETA})
    assert price is not None and price("two", 8.0) == 4.0
    known = store.read_json(throughput.FILE) or {}
    store.write_json(throughput.FILE, {**known, "cpu": {"one": 16 * PETA}})
    price = throughput.seconds(store, "cpu")
    assert price is not None
    assert [price(name, 8.0) for name in ("one", "two")] == [0.5, 2.0]
    assert not throughput.rehearsed_alone(store, "cpu", ["one", "unheard of"])
    assert throughput.rehearsed_alone(store, "cpu", ["one", "two"])


def test_a_level_that_was_interrupted_within_tells_a_rate(store: Store, tmp_path: Path) -> None:
    """Three epochs in six seconds: a level of four takes eight, and measuring comes on top."""
    plan = planned(tmp_path, {**ONE, "pruning.levels": 0})
    progress = Progress(plan, store)
    (trajectory,) = plan.trajectories.values()
    identity = trajectory.level_identity(0, None, None)
    assert seconds_estimate(progress, paper_macs, "cpu", 1) is None
    throughput.learn_rehearsed(store, "cpu", {workload(trajectory): 1.0})
    cluster = plan_for_cluster(progress, paper_macs, "cpu", 1, None)
    assert cluster is not None and cluster.basis.endswith("this store's rehearsal on cpu")
    row = {"lr": 0.1, "loss": 1.0, "accuracy": 0.5}
    epochs = [{"epoch": epoch, **row} for epoch in range(3)]
    here = HERE.model_copy(update={"wall_seconds": 6.0})
    store.checkpoints.save(key_of(identity), Checkpoint(epochs, {}, here))
    assert not by_rehearsal(progress, "cpu")
    seconds = seconds_estimate(progress, paper_macs, "cpu", 1)
    assert seconds == pytest.approx(8.0 * _with_measuring(trajectory))
    assert seconds_estimate(progress, paper_macs, "cuda", 1) is None
    (store.root / throughput.FILE).unlink()
    file = store.root / "inflight" / key_of(identity)
    for damaged in (b"", b"\xff" * 40, file.read_bytes()[:50]):
        file.write_bytes(damaged)
        assert seconds_estimate(progress, paper_macs, "cpu", 1) is None


def _with_measuring(trajectory: Trajectory) -> float:
    """A level's work as a multiple of its training: each image is measured once forward."""
    sizes = trajectory.setup.images.sizes
    trained = sizes.train * trajectory.setup.training.epochs
    return 1 + (sizes.train + sizes.validation + sizes.test) / (3 * trained)


def test_a_called_teacher_is_work_of_each_image(tmp_path: Path) -> None:
    def macs(table: str) -> int:
        teacher = {"arch": "resnet18", "table": table}
        plan = planned(tmp_path, {"recipes": ["kd-dense-teacher"], "teacher": teacher})
        (taught,) = [t for t in plan.trajectories.values() if t.teacher]
        assert workload(taught).endswith("/table" if table == "always" else "/teacher")
        return macs_per_trained_image(taught, paper_macs)

    assert macs("always") == 3 * 67_831_296
    assert macs("never") == 3 * 67_831_296 + 141_202_432


def test_levels_of_a_run_that_was_killed_tell_rates_at_once(tmp_path: Path) -> None:
    spec(tmp_path, {**ONE, "pruning.levels": 3})
    line = ("run", "spec.yaml", "--store", "store", "--jobs", "1", "--device", "cpu")
    killed = dsdctl(tmp_path, *line, kill_at="scheduling:2")
    assert killed.returncode == -signal.SIGKILL
    assert "unknown" not in time_of(tmp_path, "spec.yaml")


@pytest.mark.parametrize(
    ("seconds", "device", "said"),
    [(None, "cpu", 0), (359_999.0, "cpu", 0), (360_001.0, "cpu", 1), (360_001.0, "cuda", 0)],
)
def test_only_a_plan_of_weeks_on_a_cpu_is_called_long(
    seconds: float | None, device: str, said: int
) -> None:
    assert len(too_long(seconds, device)) == said


def test_a_long_plan_says_so_last(tmp_path: Path) -> None:
    spec(tmp_path, ONE)
    plan = planned(tmp_path, ONE)
    (trajectory,) = plan.trajectories.values()
    store = Store(tmp_path / "store")
    store.open_for_writing()
    throughput.learn_rehearsed(store, "cpu", {workload(trajectory): 1.0})
    done = dsdctl(tmp_path, "plan", "spec.yaml", "--store", "store", "--device", "cpu")
    *_, last = " ".join(done.stdout.split()).split("That is ")
    assert last.startswith("more than 100 hours on this CPU")
    assert last.endswith("levels or epochs.")
