"""`dsdctl status`: what is done, what runs and where, and what it waits for."""

import os
import socket
import time
from pathlib import Path

import pytest
from builders import measured, planned

from dsdctl.keys import LevelIdentity, key_of
from dsdctl.plan.progress import Progress
from dsdctl.report.status import status_lines
from dsdctl.results import Diverged, Environment, LevelResult
from dsdctl.store.at_work import Stage
from dsdctl.store.checkpoints import Checkpoint
from dsdctl.store.store import Store

ENVIRONMENT = Environment(
    python="3", torch="2", dsdctl="0", device="cpu", threads=1, wall_seconds=1.0
)


class Watched:
    """A plan with a teacher and its student, the store, and what status says of them."""

    def __init__(self, folder: Path):
        recipes = ["early-stop", "kd-pruned-teacher"]
        self.plan = planned(folder, {"recipes": recipes, "pruning.levels": 14})
        self.store = Store(folder / "store")
        self.store.open_for_writing()
        self._writer = Progress(self.plan, self.store)
        self.student, self.teacher, self.taught = self.plan.trajectories

    def next_level(self, key: str) -> LevelIdentity:
        identity = self._writer.next_level_identity(self.plan.trajectories[key])
        assert identity is not None
        return identity

    def finish(self, key: str, result: LevelResult) -> None:
        level = self.store.levels.commit(self.next_level(key), result, ENVIRONMENT, [], {}, {})
        self._writer.add(self.plan.trajectories[key], level)

    def states(self, width: int | None = None) -> list[str]:
        progress = Progress(self.plan, Store(self.store.root))
        return list(status_lines(progress, {}, width=width))

    def state(self, key: str) -> str:
        (line,) = [line for line in self.states() if line.startswith(key[:8])]
        return line.partition("): ")[2]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_what_can_run_is_ready_and_the_taught_wait_for_their_teacher(watched: Watched) -> None:
    teacher = watched.teacher[:8]
    assert watched.state(watched.student) == "0/15 levels, ready"
    assert (
        watched.state(watched.taught)
        == f"0/15 levels, waiting for all 15 levels of teacher {teacher}"
    )


def test_what_runs_says_where_since_when_and_how_far(watched: Watched) -> None:
    watched.finish(watched.student, measured(0, 0.5))
    key = key_of(watched.next_level(watched.student))
    with watched.store.at_work(key) as teller:
        assert teller is not None
        now = time.strftime("%H:%M")
        here = f"1/15 levels, running on {socket.gethostname()} since "
        loading = watched.state(watched.student)
        assert loading.startswith(here) and loading.endswith(": level 1 of 14, loading")
        assert loading.removeprefix(here)[:5] >= now or now == "23:59"
        teller.notify(Stage(name="epoch", number=3, count=40, batch=7, batches=9))
        assert watched.state(watched.student).endswith("level 1 of 14, epoch  3/40, batch 7/9")
    assert watched.state(watched.student) == "1/15 levels, ready"


def test_the_last_words_of_a_killed_worker_are_not_believed(watched: Watched) -> None:
    key = key_of(watched.next_level(watched.student))
    child = os.fork()
    if child == 0:
        with watched.store.at_work(key):
            os._exit(0)  # without taking its words back
    os.waitpid(child, 0)
    assert watched.store.told(key) is not None
    assert watched.state(watched.student) == "0/15 levels, ready"


def test_where_a_checkpoint_is_kept_it_goes_on_from_there(watched: Watched) -> None:
    key = key_of(watched.next_level(watched.student))
    rows = [{"epoch": n, "lr": 0.1, "loss": 1.0, "accuracy": 0.5} for n in range(3)]
    watched.store.checkpoints.save(key, Checkpoint(rows, {}, ENVIRONMENT))
    assert watched.state(watched.student) == "0/15 levels, ready, from epoch 3 of level 0"


def test_what_a_rule_stopped_is_told_from_what_ran_to_its_end(watched: Watched) -> None:
    watched.finish(watched.student, measured(0, 0.9))
    watched.finish(watched.student, measured(1, 0.8))
    assert watched.state(watched.student) == "2/15 levels, stopped early, at level 1 of 14"
    for level in range(15):
        watched.finish(watched.teacher, measured(level, 0.5))
    assert watched.state(watched.teacher) == "15/15 levels, done"


def test_what_diverged_says_where(watched: Watched) -> None:
    watched.finish(watched.student, Diverged(level=0, epoch=2))
    assert watched.state(watched.student) == "1/15 levels, diverged at level 0"


def test_in_a_narrow_window_names_lose_their_middle_and_numbers_nothing(watched: Watched) -> None:
    for line in watched.states(width=72):
        assert "/15 levels, " in line
        assert ("…" in line) is (len(line) >= 70)
