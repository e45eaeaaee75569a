"""What is asked of an engine."""

from collections.abc import Iterator
from typing import Protocol

from dsdctl.worker.task_result import TaskResult
from dsdctl.worker.tasks import Task


class Engine(Protocol):
    """Runs tasks somewhere, at most `slots` at once."""

    slots: int

    def submit(self, task: Task) -> None: ...

    def results(self, timeout: float | None = None) -> Iterator[tuple[Task, TaskResult]]:
        """Wait until a task ends, or `timeout` seconds, then yield all that have ended."""
        ...

    def close(self) -> None: ...
