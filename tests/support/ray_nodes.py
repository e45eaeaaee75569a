"""A Ray cluster of two nodes on this machine, each with one core, that tests may kill."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from soak import pieces_of, session_members, wait_until
from tiny import ROOT

SMALL = ("--node-ip-address=127.0.0.1", "--num-cpus=1", "--object-store-memory=80000000")

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # By default it takes a quarter of a minute until a node is given up. A dead one refuses each
    # check at once; one that is only slow has time to answer.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "4",
    "PYTHONPATH": str(ROOT),
    "WANDB_MODE": "disabled",
}


class Nodes:
    """A head and a second node, each `ray start` in a session of its own."""

    def __init__(self) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))  # paths of sockets must be short
        self._head: subprocess.Popen[bytes] | None = None
        self._second: subprocess.Popen[bytes] | None = None

    def complete(self) -> None:
        """Start what is missing."""
        if self._head is None:
            port = self.address.partition(":")[2]
            head = ("--head", f"--port={port}", f"--temp-dir={self._folder}")
            quiet = ("--include-dashboard=false", f"--ray-client-server-port={_free_port()}")
            self._head = self._start(*head, *quiet)
        if self._second is None:
            self._second = self._start(f"--address={self.address}")

    def at_work_on_second(self, store: Path) -> list[str]:
        """The keys of the pieces of work that the second node is at."""
        assert self._second is not None
        return [key for pid in session_members(self._second.pid) for key in pieces_of(pid, store)]

    def kill_second(self) -> None:
        self._second = _kill(self._second)

    def kill_head(self) -> None:
        self._head = _kill(self._head)

    def close(self) -> None:
        self.kill_second()
        self.kill_head()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        output = self._folder / f"start-{_free_port()}.txt"
        with output.open("wb") as stream:
            line = [str(Path(sys.executable).with_name("ray")), "start", "--block"]
            process = subprocess.Popen(
                [*line, *SMALL, *options],
                env={**os.environ, **SETTINGS},
                cwd=self._folder,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_until(lambda: "Ray runtime started" in output.read_text() or process.poll())
        finally:
            if process.poll() is not None:
                raise AssertionError(output.read_text())
        return process


def _kill(node: "subprocess.Popen[bytes] | None") -> None:
    """End a node as a machine's end does: everything at once."""
    if node is None:
        return
    while members := session_members(node.pid):
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()


def _free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])
