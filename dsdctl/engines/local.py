"""Work in processes on this machine, one task at a time in each."""

import multiprocessing
import multiprocessing.connection
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection

from dsdctl.engines.worker import Answer, work
from dsdctl.errors import in_words
from dsdctl.processes import held_back
from dsdctl.schedule import Outcome
from dsdctl.tasks import Place, Task

GRACE_SECONDS = 60.0
"""How long workers that were asked to stop may take to the end of their epoch, unless said."""


class LocalEngine:
    """Up to `jobs` worker processes. A worker that dies takes only its own task with it."""

    def __init__(self, place: Place, jobs: int, grace: float = GRACE_SECONDS):
        """`grace`: seconds that levels in flight may take to a checkpoint when all is closed."""
        self.slots = jobs
        self._place = place
        self._grace = grace
        self._idle: list[_Worker] = []
        self._running: dict[Connection, tuple[Task, _Worker]] = {}
        self._not_started: list[Outcome] = []

    def submit(self, task: Task) -> None:
        """Start `task` on a worker; fewer than `jobs` may be at work."""
        while self._idle:
            worker = self._idle.pop()
            if worker.start(task, self._place):
                self._running[worker.connection] = (task, worker)
                return
            worker.kill()  # it died while it was idle
        try:
            worker = _Worker()
            worker.start(task, self._place)
        except (OSError, MemoryError) as error:  # no memory for one more process, say
            failure = f"no worker process could be started: {in_words(error)}"
            self._not_started.append(Outcome(task, "failed", failure=failure))
        else:
            self._running[worker.connection] = (task, worker)

    def outcomes(self, timeout: float | None = None) -> Iterator[Outcome]:
        """Wait until something ends, or `timeout` seconds, then yield all that has ended."""
        not_started, self._not_started = self._not_started, []
        if not_started:
            yield from not_started
            return
        for connection in multiprocessing.connection.wait(list(self._running), timeout):
            assert isinstance(connection, Connection)
            task, worker = self._running.pop(connection)
            answer = worker.answer()
            if answer.status in ("done", "busy"):
                self._idle.append(worker)
            else:  # told to stop, which it stays; or out of memory, or in an unknown state
                worker.kill()
            yield outcome_of(task, answer)

    def close(self) -> None:
        """End all workers. Those in a level are asked to leave a checkpoint first."""
        deadline = time.monotonic() + self._grace
        workers = [worker for _, worker in self._running.values()]
        try:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                with suppress(OSError):
                    worker.connection.poll(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in [*self._idle, *workers]:
                worker.kill()


class _Worker:
    """A process that runs one task at a time, and the pipe to it.

    No thread serves the pipe: none can then be missing where the memory is full.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        self._process = context.Process(target=work, args=(remote, os.getpid()))
        try:
            with held_back():
                self._process.start()
        finally:
            remote.close()

    def start(self, task: Task, place: Place) -> bool:
        """Send a task; say whether the process was there to take it."""
        try:
            self.connection.send((task, place))
        except ConnectionError:
            return False
        return True

    def answer(self) -> Answer:
        """How the task ended, that of a process that has died included."""
        try:
            answer: Answer = self.connection.recv()
        except (EOFError, ConnectionError):
            why = "its worker process died (killed, or the memory was full)"
            return Answer("failed", failure=why)
        return answer

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.connection.close()


def outcome_of(task: Task, answer: Answer) -> Outcome:
    """What an answer says to the scheduler."""
    level, damage = (answer.done.level, answer.done.damage) if answer.done else (None, ())
    return Outcome(task, answer.status, level, answer.failure, damage, answer.trace)
