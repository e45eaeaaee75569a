"""Runs what is missing of a plan on an engine, which it knows by protocol alone."""

import time
from collections import Counter
from collections.abc import Collection, Mapping

from dsdctl.keys import LevelIdentity, TableIdentity, key_of
from dsdctl.plan.next_work import next_piece, unfinished
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import FinishedLevel
from dsdctl.run.engines.base import Engine
from dsdctl.run.events import Event, Listener
from dsdctl.run.ready_queue import ReadyQueue
from dsdctl.system.kill_points import kill_point
from dsdctl.worker.task_result import TaskResult
from dsdctl.worker.tasks import LevelTask, TableTask, Task

BUSY_SECONDS = 1.0
"""How long to leave a piece of work alone that another process is running."""

MAX_RETRIES = 5
"""How often a piece of work may be lost with its worker or node, or find what it reads corrupt,
before it counts as failed."""

Identity = LevelIdentity | TableIdentity


class Scheduler:
    """Runs what is missing of a plan, longest remaining chain first."""

    def __init__(
        self,
        progress: Progress,
        engine: Engine,
        listener: Listener,
        level_cost: Mapping[str, float],
        *,
        fail_fast: bool = False,
        only: Collection[str] = (),
    ):
        """`level_cost`: the cost of a level by trajectory key, in any one unit. `only`: keys of the
        trajectories to run, if not all."""
        self.progress = progress
        self.plan: Plan = progress.plan
        self.failures: dict[str, str] = {}
        self._engine = engine
        self._listener = listener
        self._level_cost = level_cost
        self._fail_fast = fail_fast
        wanted = (key for key in self.plan.trajectories if not only or key in only)
        self._queue = ReadyQueue(wanted, self._chain_cost)
        self._running: dict[str, Trajectory] = {}
        """Trajectories by the key of the piece that runs for them."""
        self._met_busy: set[str] = set()
        """Keys of pieces that another process is running, each of which is said once."""
        self._done: set[str] = set()
        """Keys of the levels that were finished here, or were said to be by others."""
        self._retries: Counter[str] = Counter()
        """How often a piece was run again, by its key."""

    def run(self) -> None:
        """Run until nothing more can be run. Failures are kept, other work goes on."""
        self._enqueue_unfinished()
        while True:
            if self.failures and self._fail_fast:
                self._queue.forget_resting()
            else:
                self._start_ready()
            if self._running:
                for task, result in self._engine.results(
                    BUSY_SECONDS if self._queue.resting else None
                ):
                    self._handle(task, result)
            elif self._queue.resting:
                time.sleep(BUSY_SECONDS)
            else:
                return

    def _enqueue_unfinished(self) -> None:
        self._queue.add(*(trajectory.key for trajectory in unfinished(self.progress)))

    def _start_ready(self) -> None:
        self._queue.wake(time.monotonic())
        while len(self._running) < self._engine.slots:
            piece = self._next()
            if piece is None:
                return
            trajectory, identity = piece
            known = self._stored(trajectory, identity)
            if known is not None:
                self.progress.add(trajectory, known)
                self._queue.add(trajectory.key, *trajectory.students)
                self._tell_found(trajectory, identity, known)
            else:
                self._start(trajectory, identity)

    def _tell_found(self, trajectory: Trajectory, identity: Identity, level: FinishedLevel) -> None:
        """Say once of a level that this run has not finished itself that it is done."""
        if level.key not in self._done:
            self._done.add(level.key)
            self._listener(Event("found", trajectory, _task(trajectory, identity), level))

    def _next(self) -> tuple[Trajectory, Identity] | None:
        """What to run next, and for which trajectory."""
        while (key := self._queue.pop()) is not None:
            trajectory = self.plan.trajectories[key]
            identity = None if key in self.failures else next_piece(self.progress, trajectory)
            if identity is None:
                continue
            # A level or a table that two trajectories share is run once.
            if (piece := key_of(identity)) not in self._running:
                return trajectory, identity
            self._queue.wait_for(piece, key)
        return None

    def _start(self, trajectory: Trajectory, identity: Identity) -> None:
        task, key = _task(trajectory, identity), key_of(identity)
        self._running[key] = trajectory
        if key not in self._met_busy:
            self._listener(Event("started", trajectory, task))
        self._engine.submit(task)

    def _stored(self, trajectory: Trajectory, identity: Identity) -> FinishedLevel | None:
        """What another trajectory or process has finished of it by now."""
        if isinstance(identity, LevelIdentity) and self._is_new(trajectory, identity):
            return self.progress.store.levels.get(key_of(identity))
        return None

    def _is_new(self, trajectory: Trajectory, identity: LevelIdentity) -> bool:
        """Whether it is the next level: no rewind checkpoint, and no known level whose weights
        are needed again."""
        known = self.progress.known[trajectory.key]
        return identity.iterations is None and identity.level == known.next_level

    def _chain_cost(self, key: str) -> float:
        """Cost of the longest chain from here on: own levels left, then those taught."""
        trajectory = self.plan.trajectories[key]
        left = trajectory.levels - self.progress.known[key].next_level
        students = [self._chain_cost(student) for student in trajectory.students]
        return left * self._level_cost[key] + max(students, default=0.0)

    def _handle(self, task: Task, result: TaskResult) -> None:
        key = key_of(task.identity)
        trajectory = self._running.pop(key)
        kill_point("scheduling")
        self._queue.ended(key)
        for line in result.damage:
            self._listener(Event("damaged", trajectory, task, reason=line))
        match result.status:
            case "done":
                self._finish(trajectory, task, result.level)
            case "busy":
                self._leave_alone(trajectory, task)
            case "lost" if self._may_retry(key):
                self._listener(Event("lost", trajectory, task, reason=result.failure))
                self._queue.add(trajectory.key)
            case "corrupt" if self._may_retry(key):
                self._listener(Event("damaged", trajectory, task, reason=result.failure))
                self.progress.forget_missing()
                self._enqueue_unfinished()
            case "failed" | "stopped" | "lost" | "corrupt":
                failure = result.failure or "stopped from outside; re-run to resume"
                self.failures[trajectory.key] = failure
                self._listener(Event("failed", trajectory, task, None, failure, result.trace))

    def _may_retry(self, piece: str) -> bool:
        self._retries[piece] += 1
        return self._retries[piece] <= MAX_RETRIES

    def _leave_alone(self, trajectory: Trajectory, task: Task) -> None:
        """Look again in a while: another process is running it."""
        self._queue.rest(trajectory.key, time.monotonic() + BUSY_SECONDS)
        key = key_of(task.identity)
        if key not in self._met_busy:
            self._met_busy.add(key)
            self._listener(Event("busy", trajectory, task))

    def _finish(self, trajectory: Trajectory, task: Task, level: FinishedLevel | None) -> None:
        again = level is not None
        self._done.update([level.key] if level else [])
        if isinstance(task, LevelTask) and self._is_new(trajectory, task.identity):
            assert level is not None
            self.progress.add(trajectory, level)
            again = False
        self._queue.add(trajectory.key, *trajectory.students)
        self._listener(Event("restored" if again else "finished", trajectory, task, level=level))


def _task(trajectory: Trajectory, identity: Identity) -> Task:
    path, need = str(trajectory.setup.images.path), trajectory.teacher
    weights = teacher_source = None
    if need is not None and need.file is not None:
        weights, teacher_source = str(need.file.path), need.setup.source
    if isinstance(identity, TableIdentity):
        return TableTask(
            identity=identity,
            dataset_path=path,
            teacher_weights=weights,
            teacher_source=teacher_source,
        )
    return LevelTask(
        identity=identity,
        dataset_path=path,
        teacher_weights=weights,
        source=trajectory.setup.source,
        draws=trajectory.setup.draws,
        teacher_source=teacher_source,
    )
