"""What happened in a run for programs to read: one JSON object a line, beside the text log.

docs/running.md describes the fields; `EventRecord` is the schema.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dsdctl.cost.throughput import images_per_second
from dsdctl.errors import describe_os_error
from dsdctl.keys import key_of
from dsdctl.run.events import Event
from dsdctl.run.log import log
from dsdctl.spec.fields import Model
from dsdctl.worker.tasks import TableTask, Task

EventKind = Literal[
    "run-started", "run-ended",
    "started", "finished", "restored", "found", "diverged", "failed", "lost", "busy", "damaged",
]  # fmt: skip


class EventRecord(Model):
    """One line. What does not apply is left out of the line, and None here."""

    time: str = Field(description="UTC, ISO 8601 with milliseconds")
    event: EventKind
    piece: Literal["level", "table", "state"] | None = None
    key: str | None = Field(None, description="of the piece: its name in the store")
    trajectory: str | None = None
    label: str | None = Field(None, description="of the trajectory, for people")
    level: int | None = None
    test_accuracy: float | None = None
    sparsity: float | None = None
    wall_seconds: float | None = None
    images_per_second: float | None = None
    gpu_peak_bytes: int | None = None
    reason: str | None = None
    version: str | None = None
    host: str | None = None
    pid: int | None = None
    device: str | None = None
    jobs: int | None = None
    specs: tuple[str, ...] | None = None
    levels_missing: int | None = None
    levels_run: int | None = None
    trajectories_failed: int | None = None


class EventLog:
    """Appends lines to a file. Where it cannot grow any more, that is logged once and it ends."""

    def __init__(self, file: Path):
        self._file = file
        self._ended = False

    def write(self, event: EventKind, **facts: Any) -> None:
        """Add a line with the time of now; facts that are None are left out."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = EventRecord(time=now, event=event, **facts)
        if not self._ended:
            try:
                with self._file.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(entry.model_dump(exclude_none=True)) + "\n")
            except OSError as error:
                self._ended = True
                log.warning("%s: ends here (%s)", self._file, describe_os_error(error))

    def add(self, event: Event) -> None:
        """Add what happened to a trajectory."""
        diverged = event.level is not None and event.level.measured is None
        facts: dict[str, Any] = {}
        if event.level is not None:
            environment, measured = event.level.environment, event.level.measured
            facts["wall_seconds"] = environment.wall_seconds
            facts["gpu_peak_bytes"] = environment.gpu_peak_bytes
            facts["images_per_second"] = images_per_second(event.trajectory, event.level)
            if measured is not None:
                facts["test_accuracy"] = measured.test_accuracy
                facts["sparsity"] = measured.sparsity
        self.write(
            "diverged" if diverged else event.kind,
            piece=_piece(event.task),
            key=key_of(event.task.identity),
            trajectory=event.trajectory.key,
            label=event.trajectory.label,
            level=None if isinstance(event.task, TableTask) else event.task.identity.level,
            reason=event.reason,
            **facts,
        )


def _piece(task: Task) -> Literal["level", "table", "state"]:
    if isinstance(task, TableTask):
        return "table"
    return "level" if task.identity.iterations is None else "state"


@contextmanager
def event_log(file: Path, **about: Any) -> Iterator[EventLog]:
    """An event log that begins with what the run is, and ends with the reason of its end if that
    is an error or an interruption."""
    events = EventLog(file)
    events.write("run-started", **about)
    try:
        yield events
    except BaseException as error:
        with suppress(Exception):
            events.write("run-ended", reason=str(error) or type(error).__name__)
        raise


def read_events(file: Path) -> list[EventRecord]:
    """The lines of an event log; one that a crash cut short is left out."""
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            entries.append(EventRecord.model_validate_json(line))
    return entries


def logged_specs(store: Path) -> list[Path]:
    """The spec files that the runs of a store were given, as their event logs name them."""
    found: dict[str, None] = {}
    for file in sorted(store.glob("logs/*.jsonl")):
        with suppress(OSError, ValueError), file.open(encoding="utf-8") as stream:
            found |= dict.fromkeys(EventRecord.model_validate_json(stream.readline()).specs or ())
    return [Path(name) for name in found]
