"""Who is next: a ready queue over a plan's trajectories. Knows engines by protocol alone."""

import heapq
import time
from collections import Counter
from collections.abc import Collection, Mapping

from dsdctl.keys import LevelIdentity, TableIdentity, key_of
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import FinishedLevel
from dsdctl.run.engines.base import Engine, Outcome
from dsdctl.run.events import Event, Listener
from dsdctl.system.kill_points import kill_point
from dsdctl.worker.tasks import LevelTask, TableTask, Task

BUSY_SECONDS = 1.0
"""How long to leave a piece of work alone that another process is at."""

LOSSES = 5
"""How often a piece of work may be lost with its worker or node, or meet with damage in what it
reads, before it counts as failed."""

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
        self._only = only
        self._positions = {key: position for position, key in enumerate(self.plan.trajectories)}
        self._running: dict[str, Trajectory] = {}
        """Trajectories by the key of the piece that runs for them."""
        self._queue: list[tuple[float, int, str]] = []
        """Trajectories that may have a piece to run: a heap, longest remaining chain first."""
        self._queued: set[str] = set()
        self._blocked: dict[str, list[str]] = {}
        """Trajectories whose next piece runs already, by its key."""
        self._busy: dict[str, float] = {}
        """Trajectories at whose next piece another process is, and when to look again."""
        self._met_busy: set[str] = set()
        """Keys of such pieces, each of which is said once."""
        self._done: set[str] = set()
        """Keys of the levels that were finished here, or were said to be by others."""
        self._losses: Counter[str] = Counter()
        """How often a piece was lost or met with damage, by its key."""

    def run(self) -> None:
        """Run until nothing more can be run. Failures are kept, other work goes on."""
        self._enqueue(*(trajectory.key for trajectory in self.progress.unfinished()))
        while True:
            if self.failures and self._fail_fast:
                self._busy = {}
            else:
                self._start_ready()
            if self._running:
                for outcome in self._engine.outcomes(BUSY_SECONDS if self._busy else None):
                    self._take_in(outcome)
            elif self._busy:
                time.sleep(BUSY_SECONDS)
            else:
                return

    def _start_ready(self) -> None:
        self._leave_busy()
        while len(self._running) < self._engine.slots:
            piece = self._most_urgent()
            if piece is None:
                return
            trajectory, identity = piece
            known, task = self._stored(trajectory, identity), self._task(trajectory, identity)
            if known is not None:
                self.progress.add(trajectory, known)
                self._enqueue(trajectory.key, *trajectory.taught)
                self._tell_found(trajectory, task, known)
                continue
            key = key_of(identity)
            self._running[key] = trajectory
            if key not in self._met_busy:
                self._listener(Event("started", trajectory, task))
            self._engine.submit(task)

    def _tell_found(self, trajectory: Trajectory, task: Task, level: FinishedLevel) -> None:
        """Say once of a level that this run has not finished itself that it is done."""
        if level.key not in self._done:
            self._done.add(level.key)
            self._listener(Event("found", trajectory, task, level))

    def _leave_busy(self) -> None:
        now = time.monotonic()
        for key, until in list(self._busy.items()):
            if until <= now:
                del self._busy[key]
                self._enqueue(key)

    def _most_urgent(self) -> tuple[Trajectory, Identity] | None:
        while self._queue:
            cost, _, key = heapq.heappop(self._queue)
            self._queued.remove(key)
            if key in self.failures or key in self._busy:
                continue
            trajectory = self.plan.trajectories[key]
            if -cost != self._remaining_cost(trajectory):  # those that it teaches have gone on
                self._enqueue(key)
                continue
            identity = self.progress.next_piece(trajectory)
            if identity is None:
                continue
            # A level or a table that two trajectories share is run once.
            if (piece := key_of(identity)) in self._running:
                self._blocked.setdefault(piece, []).append(key)
                continue
            return trajectory, identity
        return None

    def _enqueue(self, *keys: str) -> None:
        """Consider trajectories; what they can run is found out once there is room for it."""
        for key in keys:
            if key not in self._queued and (not self._only or key in self._only):
                self._queued.add(key)
                cost = self._remaining_cost(self.plan.trajectories[key])
                heapq.heappush(self._queue, (-cost, self._positions[key], key))

    def _stored(self, trajectory: Trajectory, identity: Identity) -> FinishedLevel | None:
        """What another trajectory or process has finished of it by now."""
        if isinstance(identity, LevelIdentity) and self._is_new(trajectory, identity):
            return self.progress.store.levels.get(key_of(identity))
        return None

    def _is_new(self, trajectory: Trajectory, identity: LevelIdentity) -> bool:
        """Whether it is the next level: no state to rewind to, and no known level whose weights
        are needed again."""
        known = self.progress.known[trajectory.key]
        return identity.iterations is None and identity.level == known.next_level

    def _remaining_cost(self, trajectory: Trajectory) -> float:
        """Cost of the longest chain from here on: own levels left, then those taught."""
        left = trajectory.levels - self.progress.known[trajectory.key].next_level
        taught = [self._remaining_cost(self.plan.trajectories[key]) for key in trajectory.taught]
        return left * self._level_cost[trajectory.key] + max(taught, default=0.0)

    def _task(self, trajectory: Trajectory, identity: Identity) -> Task:
        path = str(trajectory.regime.images.path)
        need = trajectory.teacher
        weights = str(need.file.path) if need is not None and need.file is not None else None
        if isinstance(identity, LevelIdentity):
            return LevelTask(identity=identity, dataset_path=path, teacher_weights=weights)
        return TableTask(identity=identity, dataset_path=path, teacher_weights=weights)

    def _take_in(self, outcome: Outcome) -> None:
        task, key = outcome.task, key_of(outcome.task.identity)
        trajectory = self._running.pop(key)
        kill_point("scheduling")
        self._enqueue(*self._blocked.pop(key, ()))
        for line in outcome.damage:
            self._listener(Event("damaged", trajectory, task, reason=line))
        match outcome.status:
            case "busy":
                self._busy[trajectory.key] = time.monotonic() + BUSY_SECONDS
                if key not in self._met_busy:
                    self._met_busy.add(key)
                    self._listener(Event("busy", trajectory, task))
            case "lost" if self._losses[key] < LOSSES:
                self._losses[key] += 1
                self._listener(Event("lost", trajectory, task, reason=outcome.failure))
                self._enqueue(trajectory.key)
            case "damaged" if self._losses[key] < LOSSES:
                self._losses[key] += 1
                self._listener(Event("damaged", trajectory, task, reason=outcome.failure))
                self.progress.forget_missing()
                self._enqueue(*(found.key for found in self.progress.unfinished()))
            case "failed" | "stopped" | "lost" | "damaged":
                failure = outcome.failure or "stopped from outside; the same command goes on"
                self.failures[trajectory.key] = failure
                self._listener(Event("failed", trajectory, task, None, failure, outcome.trace))
            case "done":
                self._take_in_done(trajectory, task, outcome.level)

    def _take_in_done(
        self, trajectory: Trajectory, task: Task, level: FinishedLevel | None
    ) -> None:
        again = level is not None
        self._done.update([level.key] if level else [])
        if isinstance(task, LevelTask) and self._is_new(trajectory, task.identity):
            assert level is not None
            self.progress.add(trajectory, level)
            again = False
        self._enqueue(trajectory.key, *trajectory.taught)
        self._listener(Event("restored" if again else "finished", trajectory, task, level=level))
