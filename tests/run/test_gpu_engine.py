"""Several tasks in one process, a thread each, as on a GPU: what they leave, and how they end.

The command is made to do on a CPU what it does on a GPU.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from builders import planned
from soak import (
    Checkpoints,
    dsdctl,
    ended,
    inflight,
    levels,
    pieces_of,
    result_bytes,
    spec,
    wait_until,
    workers,
)
from tiny import FULL_FOR_SEED_0, ROOT

from dsdctl.keys import LevelIdentity, key_of
from dsdctl.plan.next_work import next_piece
from dsdctl.plan.progress import Progress
from dsdctl.run.backends import tasks_in_a_process
from dsdctl.run.engines.local import DIED, LocalEngine
from dsdctl.store.store import Store
from dsdctl.system.devices import Device
from dsdctl.worker import level
from dsdctl.worker.process import attempt
from dsdctl.worker.task_result import TaskResult
from dsdctl.worker.tasks import LevelTask, WorkerConfig

SEEDS = 3

EPOCHS = 40

IN_THREADS = """\
from dsdctl.cli.app import main
from dsdctl.ml.train import Trainer
from dsdctl.run import backends

backends.tasks_in_a_process = lambda device, jobs: jobs
"""


def start(folder: Path, *arguments: object, more: str = "") -> subprocess.Popen[str]:
    """Start the command with all its tasks in one process; `more` is part of its main module."""
    main = '\nif __name__ == "__main__":\n    main()\n'
    (folder / "in_threads.py").write_text(f"import torch\n\n{IN_THREADS}{more}{main}")
    line = [sys.executable, "in_threads.py", "run", "small.yaml", "--jobs", SEEDS, *arguments]
    return subprocess.Popen(
        list(map(str, line)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_spec(
    folder: Path, epochs: int = EPOCHS, recipes: str = "[vanilla]", last_level: int = 0
) -> None:
    spec(
        folder,
        ("epochs: 3", f"epochs: {epochs}"),
        ("levels: 1", f"levels: {last_level}"),
        ("[vanilla]", recipes),
        ("seeds: [0]", f"seeds: {list(range(SEEDS))}"),
    )


def wait_for_the_only_worker(process: subprocess.Popen[str], store: Path) -> int:
    """Wait until each seed has a checkpoint of its first level, all from one process."""
    wait_until(lambda: len(inflight(store)) == SEEDS)
    (worker,) = workers(process.pid)
    assert {file.name for file in inflight(store)} <= set(pieces_of(worker, store))
    return worker


def one_at_a_time(folder: Path) -> dict[str, bytes]:
    """What the spec in `folder` gives in the main thread."""
    done = dsdctl(folder, "run", "small.yaml", "--jobs", "1", "--store", "reference")
    assert done.returncode == 0, done.stderr
    return result_bytes(folder / "reference")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the first levels of all seeds give."""
    folder = tmp_path_factory.mktemp("one_at_a_time")
    write_spec(folder)
    return one_at_a_time(folder)


@pytest.mark.linux
@pytest.mark.long
def test_tasks_at_once_leave_the_bytes_of_one_at_a_time(tmp_path: Path) -> None:
    """Teacher, table and students, each of them pruned."""
    write_spec(tmp_path, 15, "[vanilla, kd-dense-teacher]", last_level=1)
    store = tmp_path / "dsdctl-store"
    process = start(tmp_path, "--checkpoint-every", "0")
    seen: set[int] = set()
    most = 0
    while process.poll() is None:
        for worker in workers(process.pid):
            seen.add(worker)
            most = max(most, len(pieces_of(worker, store)))
        time.sleep(0.01)
    assert ended(process).returncode == 0
    assert len(seen) == 1
    assert most == SEEDS
    assert result_bytes(store) == one_at_a_time(tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_same_bytes_whatever_the_jobs(tmp_path: Path) -> None:
    """In all precisions at once, of which tf32 does not go with the others."""
    spec(
        tmp_path,
        ("epochs: 3", "epochs: 15"),
        ("batch_size: 200", "batch_size: 100"),
        ("[vanilla]", "[vanilla, kd-dense-teacher]"),
        ("seeds: [0]", "seeds: [0, 1]\nmatrix: {training.precision: [fp32, tf32, bf16]}"),
    )
    for jobs in (1, 6):
        line = ("run", "small.yaml", "--device", "cuda", "--jobs", jobs, "--store", f"store-{jobs}")
        done = dsdctl(tmp_path, *line)
        assert done.returncode == 0, done.stderr
        assert "no CUDA graph" not in done.stderr
    assert result_bytes(tmp_path / "store-6") == result_bytes(tmp_path / "store-1")


@pytest.mark.long
@pytest.mark.linux
def test_a_signal_leaves_a_checkpoint_of_each_from_which_the_same_bytes_come(
    expected: dict[str, bytes], tmp_path: Path
) -> None:
    write_spec(tmp_path)
    store = tmp_path / "dsdctl-store"
    process = start(tmp_path, "--checkpoint-every", "0")
    wait_for_the_only_worker(process, store)
    checkpoints = Checkpoints(store)
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert done.returncode == 143
    assert "re-run the command to resume" in done.stderr
    kept = {file.name: Store(store).checkpoints.load(file.name) for file in inflight(store)}
    assert len(kept) == SEEDS
    assert checkpoints.taken().keys() == kept.keys()
    checkpoints = Checkpoints(store)
    assert ended(start(tmp_path, "--checkpoint-every", "0")).returncode == 0
    left = {key: EPOCHS - len(found.epochs) for key, found in kept.items() if found is not None}
    assert checkpoints.taken() == left
    assert result_bytes(store) == expected


@pytest.mark.long
@pytest.mark.linux
def test_a_killed_process_fails_all_its_tasks_and_the_next_run_finishes_them(
    expected: dict[str, bytes], tmp_path: Path
) -> None:
    write_spec(tmp_path)
    store = tmp_path / "dsdctl-store"
    process = start(tmp_path, "--checkpoint-every", "0")
    os.kill(wait_for_the_only_worker(process, store), signal.SIGKILL)
    done = ended(process)
    assert done.returncode == 3
    assert done.stderr.count(f"FAILED: {DIED}") == SEEDS
    assert ended(start(tmp_path)).returncode == 0
    assert result_bytes(store) == expected


@pytest.mark.long
@pytest.mark.linux
def test_a_task_that_fails_leaves_those_beside_it_alone(
    expected: dict[str, bytes], tmp_path: Path
) -> None:
    write_spec(tmp_path)
    store = tmp_path / "dsdctl-store"
    checkpoints = Checkpoints(store)
    done = ended(start(tmp_path, "--checkpoint-every", "0", more=FULL_FOR_SEED_0))
    assert done.returncode == 3
    words = "the GPU's memory is full, try fewer --jobs (CUDA out of memory)"
    assert done.stderr.count(f"FAILED: {words}") == 1
    assert "(2/3)" in done.stdout
    # The others were not begun again: each of their epochs was trained once.
    assert sorted(checkpoints.taken().values()) == [1, EPOCHS, EPOCHS]
    assert len(levels(store)) == SEEDS - 1
    assert ended(start(tmp_path)).returncode == 0
    assert result_bytes(store) == expected


# The engine itself


@pytest.fixture
def tasks(tmp_path: Path) -> list[LevelTask]:
    """Level 0 of as many seeds, which take a while."""
    plan = planned(tmp_path, {"training.epochs": 15, "seeds": list(range(SEEDS)), "teacher": None})
    progress = Progress(plan, Store(tmp_path))
    found = []
    for trajectory in plan.trajectories.values():
        identity = next_piece(progress, trajectory)
        assert isinstance(identity, LevelIdentity)
        found.append(LevelTask(identity=identity, dataset_path=str(trajectory.setup.images.path)))
    return found


@pytest.fixture
def config(tmp_path: Path) -> WorkerConfig:
    store = Store(tmp_path / "store")
    store.open_for_writing()
    return WorkerConfig(store=str(store.root), device="cpu")


def without_its_data(task: LevelTask, folder: Path) -> LevelTask:
    images = task.identity.images.model_copy(update={"dataset": "npz-1", "content": "0" * 64})
    identity = task.identity.model_copy(update={"images": images})
    return LevelTask(identity=identity, dataset_path=str(folder / "nowhere.npz"))


def all_of(engine: LocalEngine, count: int) -> Iterator[tuple[LevelTask, TaskResult]]:
    while count > 0:
        for pair in engine.results():
            count -= 1
            yield pair


@pytest.mark.long
def test_what_comes_after_a_failure_gets_another_process(
    tasks: list[LevelTask], config: WorkerConfig, tmp_path: Path
) -> None:
    first, second, third = tasks
    broken = without_its_data(first, tmp_path)
    with closing(LocalEngine(config, 2, at_once=2)) as engine:
        engine.submit(broken)
        engine.submit(second)
        ended = all_of(engine, 3)
        task, failed = next(ended)
        assert (task, failed.status) == (broken, "failed")
        engine.submit(third)
        assert len(multiprocessing.active_children()) == 2
        rest = list(ended)
        assert [result.status for _, result in rest] == ["done", "done"]
        assert {key_of(task.identity) for task, _ in rest} == {
            key_of(task.identity) for task in (second, third)
        }
        # That of the failure has ended what it was at, and is not there any more.
        assert len(multiprocessing.active_children()) == 1
    assert not multiprocessing.active_children()


@pytest.mark.long
def test_an_idle_process_that_died_is_replaced(
    tasks: list[LevelTask], config: WorkerConfig
) -> None:
    with closing(LocalEngine(config, 2, at_once=2)) as engine:
        for task in tasks[:2]:
            engine.submit(task)
            ((_, result),) = all_of(engine, 1)
            assert result.status == "done"
            (process,) = multiprocessing.active_children()
            process.kill()
            process.join()


@pytest.mark.long
def test_no_more_tasks_share_a_process_than_torch_has_streams_for(
    tasks: list[LevelTask], config: WorkerConfig
) -> None:
    with closing(LocalEngine(config, 3, at_once=2)) as engine:
        for task in tasks:
            engine.submit(task)
        assert len(multiprocessing.active_children()) == 2
        assert {result.status for _, result in all_of(engine, 3)} == {"done"}


@pytest.mark.parametrize(
    ("device", "jobs", "at_once"), [("cpu", 4, 1), ("cuda", 1, 1), ("cuda", 4, 4), ("cuda", 40, 16)]
)
def test_tasks_share_a_process_on_a_gpu_alone(device: Device, jobs: int, at_once: int) -> None:
    assert tasks_in_a_process(device, jobs) == at_once


@pytest.mark.usefixtures("one_deterministic_thread")
def test_nothing_of_a_task_outlives_its_failure(
    tasks: list[LevelTask], config: WorkerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even until the garbage collector comes by: those beside it want its memory."""
    held: list[weakref.ref[torch.Tensor]] = []

    def run_out_of_memory(*_arguments: object) -> None:
        tensor = torch.ones(3)
        held.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(level, "_run_level", run_out_of_memory)
    gc.disable()
    try:
        result = attempt(tasks[0], config, lambda: False)
        assert [ref() for ref in held] == [None]
    finally:
        gc.enable()
    assert result.status == "failed"
    assert result.failure is not None
    assert result.failure.startswith("the GPU's memory is full, try fewer --jobs")
