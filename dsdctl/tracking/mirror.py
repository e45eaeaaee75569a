"""Weights & Biases as a mirror of the store: in a process of its own, never waited for long.

The store is the record. Whatever happens to the tracker (no network, a server that hangs, a crash
of its client) costs a run nothing but this mirror, and is said once. Journals in the store keep
which levels W&B has and which are in its offline files, so that a second run mirrors nothing twice
and a replay sends what no server has seen.
"""

import logging
import multiprocessing
import os
import queue
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dsdctl.errors import describe_os_error
from dsdctl.spec.experiment import Wandb
from dsdctl.store.store import Store
from dsdctl.system.processes import die_with_parent, signals_blocked, unblock_signals
from dsdctl.tracking.client import _Client
from dsdctl.tracking.messages import FINISH_SECONDS, KEPT, ReportArtifacts, RunInfo, _one_line

FLUSHED_SECONDS = 2.0
"""After how long what was logged offline is on the disk; the client is told to flush it sooner."""


class Mirror:
    """Sends levels and tables to a W&B process; no method blocks on it but `finish`, and none
    raises."""

    def __init__(self, settings: Wandb, store: Path):
        self._failure = ""
        try:
            context = multiprocessing.get_context("spawn")
            self._messages: multiprocessing.Queue[tuple[Any, ...]] = context.Queue()
            # A run that is interrupted does not finish, and must not wait at its end for a thread
            # that writes to a pipe which nobody reads any more.
            self._messages.cancel_join_thread()
            self._answer, remote = context.Pipe(duplex=False)
            inside = (
                settings.model_dump_json(),
                str(store),
                self._messages,
                remote,
                os.getpid(),
            )
            self._process = context.Process(target=_mirror_process, args=inside, daemon=True)
            with signals_blocked():
                self._process.start()
            remote.close()
        except (OSError, RuntimeError, MemoryError) as error:  # no room for one more process
            self._failure = describe_os_error(error) or str(error)

    def level(self, run: RunInfo, record: Mapping[str, Any]) -> None:
        """Mirror one finished level of a trajectory."""
        self._put("level", run.model_dump_json(), dict(record))

    def attach(self, attached: ReportArtifacts) -> None:
        """Mirror the comparison with all that belongs to it."""
        self._put("attach", attached)

    def finish(self, seconds: float = FINISH_SECONDS) -> str:
        """End the mirror and return the one line to tell the user; never waits longer."""
        self._put("end")
        if self._failure:
            return f"W&B: {self._failure}; {KEPT}"
        said = f"W&B: no answer within {seconds:.0f} s; {KEPT}"
        try:
            if self._answer.poll(seconds):
                said = self._answer.recv()
        except (EOFError, OSError):
            said = f"W&B: its client died; {KEPT}"
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
        return said

    def _put(self, *message: Any) -> None:
        if self._failure:
            return
        try:
            self._messages.put(message)
        except (OSError, RuntimeError, ValueError) as error:  # its thread cannot be started, say
            self._failure = describe_os_error(error) or str(error)


def _mirror_process(
    settings: str,
    store: str,
    messages: "queue.Queue[tuple[Any, ...]]",
    answer: Connection,
    parent: int,
) -> None:
    """Take messages until the end; a failure ends the mirroring, and is answered in one line."""
    unblock_signals()
    die_with_parent(parent)
    logging.raiseExceptions = False  # the client's own log, on a full disk, is not the user's
    client = _Client(Wandb.model_validate_json(settings), Store(Path(store)))
    failure = ""
    try:
        while _take(messages, client):
            pass
    except Exception as error:  # whatever the client of a foreign service comes up with
        failure = _one_line(error)
    failure = client.close() or failure
    answer.send(f"W&B: {failure}; {KEPT}" if failure else client.summary())


def _take(messages: "queue.Queue[tuple[Any, ...]]", client: "_Client") -> bool:
    """Pass one message on, or use the pause between two; say whether more may come."""
    try:
        kind, *content = messages.get(timeout=FLUSHED_SECONDS)
    except queue.Empty:
        client.confirm_offline()
        return True
    match kind:
        case "level":
            client.level(*content)
        case "attach":
            client.attach(*content)
    return bool(kind != "end")
