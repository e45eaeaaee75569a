"""Work in processes on this machine: one task at a time in each, or several that share a GPU."""

import itertools
import multiprocessing
import multiprocessing.connection
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

from dsdctl.errors import describe_os_error
from dsdctl.system.processes import start_worker
from dsdctl.worker.process import work
from dsdctl.worker.task_result import TaskResult
from dsdctl.worker.tasks import Task, WorkerConfig

GRACE_SECONDS = 60.0
"""How long workers that were asked to stop may take to the end of their epoch, unless said."""

THREADS = 16
"""Tasks that share a process and its GPU at most: each takes one of the 32 streams that torch has
before it hands out the first again."""

DIED = "its worker process died (killed, or the memory was full)"
"""Why the tasks of a process that has ended failed."""


class LocalEngine:
    """At most `jobs` tasks in worker processes. One that dies takes only its own tasks with it."""

    def __init__(
        self, config: WorkerConfig, jobs: int, grace: float = GRACE_SECONDS, at_once: int = 1
    ):
        """`at_once`: how many tasks share a process, each in a thread. `grace`: seconds that levels
        in flight may take to a checkpoint when all is closed."""
        self.slots = jobs
        self._config = config
        self._grace = grace
        self._at_once = at_once
        self._workers: list[_Worker] = []
        self._not_started: list[tuple[Task, TaskResult]] = []

    def submit(self, task: Task) -> None:
        """Start `task` on a worker; fewer than `jobs` may be at work."""
        # The last that answered first: what it has loaded is the most likely to be wanted again.
        for worker in sorted(self._workers, key=lambda worker: worker.answered, reverse=True):
            if worker.has_room and worker.start(task, self._config):
                return
        self._end_useless()
        try:
            worker = _Worker(self._at_once)
        except (OSError, MemoryError) as error:  # no memory for one more process, say
            failure = f"no worker process could be started: {describe_os_error(error)}"
            self._not_started.append((task, TaskResult("failed", failure=failure)))
            return
        self._workers.append(worker)
        if not worker.start(task, self._config):
            self._not_started.append((task, TaskResult("failed", failure=DIED)))

    def _end_useless(self) -> None:
        """Kill what does nothing and can be given nothing."""
        for worker in [w for w in self._workers if not (w.tasks or w.sound)]:
            worker.kill()
            self._workers.remove(worker)

    def results(self, timeout: float | None = None) -> Iterator[tuple[Task, TaskResult]]:
        """Wait until something ends, or `timeout` seconds, then yield all that has ended."""
        not_started, self._not_started = self._not_started, []
        if not_started:
            yield from not_started
            return
        at_work = {worker.connection: worker for worker in self._workers if worker.tasks}
        for connection in multiprocessing.connection.wait(list(at_work), timeout):
            assert isinstance(connection, Connection)
            ended = at_work[connection].ended()
            self._end_useless()
            yield from ended

    def close(self) -> None:
        """End all workers. Those in a level are asked to leave a checkpoint first."""
        deadline = time.monotonic() + self._grace
        at_work = [worker for worker in self._workers if worker.tasks]
        try:
            for worker in at_work:
                worker.terminate()
            for worker in at_work:
                worker.wait(deadline)
        finally:
            for worker in self._workers:
                worker.kill()


class _Worker:
    """A process that runs up to `at_once` tasks, and the pipe to it.

    No thread serves the pipe: none can then be missing where the memory is full.
    """

    def __init__(self, at_once: int) -> None:
        self.tasks: dict[int, Task] = {}
        """Those that it is at, by the numbers that they have on the pipe."""
        self.sound = True
        """Whether it can be given more: not once it was told to stop, which it stays, is out of
        memory or in an unknown state. It is killed when it has ended what it is at."""
        self.answered = 0.0
        """When it last did, by the monotonic clock."""
        self._at_once = at_once
        self._numbers = itertools.count()
        self._process, self.connection = start_worker(work, at_once)

    @property
    def has_room(self) -> bool:
        """Whether it could take one more task."""
        return self.sound and len(self.tasks) < self._at_once

    def start(self, task: Task, config: WorkerConfig) -> bool:
        """Send a task; say whether the process was there to take it."""
        number = next(self._numbers)
        try:
            self.connection.send(number)
            self.connection.send((task, config))
        except ConnectionError:
            self.sound = False
            return False
        self.tasks[number] = task
        return True

    def ended(self) -> list[tuple[Task, TaskResult]]:
        """Wait for the next task to end; return how it did, or all tasks of a process that died."""
        try:
            number, result = self.connection.recv()
        except (EOFError, ConnectionError):
            lost, self.tasks = self.tasks, {}
            self.sound = False
            return [(task, TaskResult("failed", failure=DIED)) for task in lost.values()]
        self.answered = time.monotonic()
        if result.status not in ("done", "busy"):
            self.sound = False
        return [(self.tasks.pop(number), result)]

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, deadline: float) -> None:
        """Wait until all its tasks have ended, or until then by the monotonic clock."""
        with suppress(OSError):
            while self.tasks and self.connection.poll(max(0.0, deadline - time.monotonic())):
                self.ended()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()
