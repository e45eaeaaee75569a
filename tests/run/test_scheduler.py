"""The scheduler with an engine that does as a test says: order, retries, who waits for whom."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from builders import measured, planned, write

from dsdctl.keys import key_of
from dsdctl.plan.progress import Progress
from dsdctl.results import Environment, FinishedLevel
from dsdctl.run import scheduler as scheduling
from dsdctl.run.events import Event
from dsdctl.run.scheduler import MAX_RETRIES, Scheduler
from dsdctl.store.store import Store
from dsdctl.worker.task_result import TaskResult
from dsdctl.worker.tasks import Task

NOWHERE = Environment(python="", torch="", dsdctl="", device="", threads=1, wall_seconds=0.0)

FOUR = {"recipes": ["vanilla"], "seeds": [0, 1], "pruning.levels": 1}
"""Two trajectories of two levels each that have nothing to do with each other."""

TAUGHT = {"recipes": ["vanilla", "taught"], "pruning.levels": 1, "teacher.table": "never"}
"""A student, a teacher of one level, and a student that waits for it."""

RECIPE = """\
recipe: taught
title: Distilled, the teacher called for every batch
distill: {teacher: dense, alpha: 0.5, temperature: 4}
"""


def done(task: Task) -> TaskResult:
    """The task has ended well; made up, and not in the store."""
    if task.kind == "table" or task.identity.iterations is not None:
        return TaskResult("done")
    level = task.identity.level
    result = measured(level, 0.9)
    return TaskResult(
        "done", FinishedLevel(key=key_of(task.identity), result=result, environment=NOWHERE)
    )


class Engine:
    """Ends the task that was submitted first, as `behave` says."""

    def __init__(self, behave: Callable[[Task], TaskResult] = done, slots: int = 1):
        self.slots = slots
        self.submitted: list[Task] = []
        self.at_once = 0
        self._behave = behave
        self._tasks: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self.submitted.append(task)
        self._tasks.append(task)
        self.at_once = max(self.at_once, len(self._tasks))

    def results(self, timeout: float | None = None) -> Iterator[tuple[Task, TaskResult]]:  # noqa: ARG002
        task = self._tasks.popleft()
        yield task, self._behave(task)

    def close(self) -> None:
        pass


class Scripted:
    """Ends tasks in turn as listed, and well once the list is at its end."""

    def __init__(self, *results: TaskResult):
        self._results = deque(results)

    def __call__(self, task: Task) -> TaskResult:
        return self._results.popleft() if self._results else done(task)


class Bench:
    """A plan, its scheduler, and the events that it told."""

    def __init__(self, folder: Path, changes: dict[str, object], engine: Engine, **options: object):
        self.plan = planned(folder, changes)
        self.progress = Progress(self.plan, Store(folder / "store"))
        self.events: list[Event] = []
        costs = dict.fromkeys(self.plan.trajectories, 1.0)
        self.scheduler = Scheduler(
            self.progress,
            engine,
            self.events.append,
            costs,
            **options,  # type: ignore[arg-type]
        )

    def run(self) -> list[str]:
        """Run it; return what happened."""
        self.scheduler.run()
        return [event.kind for event in self.events]


@pytest.fixture(autouse=True)
def _without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "BUSY_SECONDS", 0.0)


def test_each_level_runs_once_and_after_the_one_before(tmp_path: Path) -> None:
    engine = Engine(slots=2)
    bench = Bench(tmp_path, FOUR, engine)
    assert bench.run().count("finished") == 4
    assert len({key_of(task.identity) for task in engine.submitted}) == 4
    assert engine.at_once == 2
    for key in bench.plan.trajectories:
        levels = [
            e.task.identity.level
            for e in bench.events
            if e.kind == "started" and e.trajectory.key == key
        ]
        assert levels == [0, 1]


def test_the_longest_chain_goes_first_and_students_wait_for_their_teacher(tmp_path: Path) -> None:
    write(tmp_path / "taught.yaml", RECIPE)
    engine = Engine()
    bench = Bench(tmp_path, TAUGHT, engine)
    bench.run()
    started = [e.trajectory for e in bench.events if e.kind == "started"]
    teacher = next(t for t in bench.plan.trajectories.values() if t.students)
    student = next(t for t in bench.plan.trajectories.values() if t.teacher)
    assert started[0] is teacher, "it has the chain of its student behind it"
    assert started.index(student) > started.index(teacher)
    assert len(bench.progress.known[student.key].levels) == 2


def test_only_what_is_asked_for_is_run(tmp_path: Path) -> None:
    key = next(iter(planned(tmp_path, FOUR).trajectories))
    bench = Bench(tmp_path, FOUR, Engine(), only=[key])
    bench.run()
    assert {event.trajectory.key for event in bench.events} == {key}


def test_what_is_lost_is_run_again(tmp_path: Path) -> None:
    lost = TaskResult("lost", failure="its node died")
    bench = Bench(tmp_path, {"pruning.levels": 0}, Engine(Scripted(lost, lost)))
    assert bench.run() == ["started", "lost"] * 2 + ["started", "finished"]
    assert bench.scheduler.failures == {}


@pytest.mark.parametrize(("status", "kind"), [("lost", "lost"), ("corrupt", "damaged")])
def test_what_cannot_be_run_again_and_again_has_failed(
    tmp_path: Path, status: str, kind: str
) -> None:
    result = TaskResult(status, failure="its node died")  # type: ignore[arg-type]
    engine = Engine(lambda _task: result)
    bench = Bench(tmp_path, {}, engine)
    assert [each for each in bench.run() if each != "started"] == [kind] * MAX_RETRIES + ["failed"]
    assert len(engine.submitted) == MAX_RETRIES + 1
    assert list(bench.scheduler.failures.values()) == ["its node died"]


def test_after_corruption_is_found_what_is_missing_runs_again(tmp_path: Path) -> None:
    """Level 1 finds that what it reads is corrupt, and level 0 is no longer in the store."""
    runs: list[int] = []

    def behave(task: Task) -> TaskResult:
        assert task.kind == "level"
        runs.append(task.identity.level)
        return TaskResult("corrupt", failure="corrupt") if runs == [0, 1] else done(task)

    bench = Bench(tmp_path, {"pruning.levels": 1}, Engine(behave))
    assert bench.run().count("damaged") == 1
    assert runs == [0, 1, 0, 1]


def test_what_another_process_runs_is_said_once_and_looked_at_again(tmp_path: Path) -> None:
    busy = TaskResult("busy")
    bench = Bench(tmp_path, {"pruning.levels": 0}, Engine(Scripted(busy, busy, busy)))
    kinds = bench.run()
    assert kinds == ["started", "busy", "finished"]


def test_a_failure_stops_its_own_trajectory_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, FOUR, Engine(Scripted(TaskResult("failed", failure="a defect"))))
    kinds = bench.run()
    assert (kinds.count("failed"), kinds.count("finished")) == (1, 2)


def test_to_fail_fast_starts_nothing_more_but_lets_what_runs_end(tmp_path: Path) -> None:
    failed = Scripted(TaskResult("failed", failure="a defect"))
    engine = Engine(failed, slots=2)
    bench = Bench(tmp_path, FOUR, engine, fail_fast=True)
    kinds = bench.run()
    assert sorted(kinds) == ["failed", "finished", "started", "started"]


def test_to_fail_fast_waits_for_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "BUSY_SECONDS", 1e6)
    results = Scripted(TaskResult("busy"), TaskResult("failed", failure="a defect"))
    bench = Bench(tmp_path, FOUR, Engine(results, slots=2), fail_fast=True)
    assert sorted(bench.run()) == ["busy", "failed", "started", "started"]


def test_a_level_that_two_trajectories_share_runs_once(tmp_path: Path) -> None:
    """Level 0 is the same piece of work, whatever its trajectory does later."""
    store = Store(tmp_path / "store")
    store.open_for_writing()
    tensor = {"weight": torch.zeros(1)}

    def commit(task: Task) -> TaskResult:
        assert task.kind == "level"
        level = task.identity.level
        found = store.levels.commit(
            task.identity, measured(level, 0.9), NOWHERE, [], tensor, tensor
        )
        return TaskResult("done", found)

    engine = Engine(commit, slots=2)
    shared = {"pruning.levels": 1, "matrix": {"pruning.retrain": ["continue", "reinit"]}}
    bench = Bench(tmp_path, shared, engine)
    bench.run()
    assert len(bench.plan.trajectories) == 2
    assert [task.identity.level for task in engine.submitted] == [0, 1, 1]
