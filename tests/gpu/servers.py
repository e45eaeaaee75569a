"""Sides of the bench as processes that wait, prepare what they are given, and time it when asked.

Unlike `dsdctl bench`, which starts a process for each measurement, a process here goes from one job
to the next, since to start one on a GPU takes longer than to measure.
"""

import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from dsdctl.bench.cases import Job
from dsdctl.bench.side import GO
from dsdctl.ml.kernels.choice import Mode
from dsdctl.system.devices import KERNELS_VARIABLE

from .small import KERNELS, python_path


class Server:
    """A process of dsdctl.bench.side, or of a module like it; its kernels are as at its start."""

    def __init__(self, module: str = "dsdctl.bench.side", kernels: Mode = KERNELS) -> None:
        self.module, self.kernels = module, kernels
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": python_path(), KERNELS_VARIABLE: kernels},
        )  # fmt: skip
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line.strip())
        self._answers.put("")

    def ask(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def answer(self, seconds: float) -> str:
        """Raises RuntimeError where none comes in time, and ends the process then."""
        try:
            answer = self._answers.get(timeout=max(0.1, seconds))
        except queue.Empty:
            self.end()
            raise RuntimeError(f"no answer within {seconds:.0f} s") from None
        if not answer:
            raise RuntimeError(f"the process ended with {self.process.wait()}")
        return answer

    def alive(self) -> "Server":
        """Itself, or where it has ended another one like it."""
        if self.process.poll() is None:
            return self
        return Server(self.module, self.kernels)

    def end(self) -> None:
        with suppress(OSError):
            self.process.kill()
        self.process.wait()


def prepare(servers: list[Server], job: Job, seconds: float) -> None:
    """Make each ready for `job`."""
    for server in servers:
        server.ask(job.model_dump_json())
    for server in servers:
        if server.answer(seconds) != "ready":
            raise RuntimeError("not ready")


def measure(servers: list[Server], window: float, seconds: float) -> list[float]:
    """Images a second of all at once, rates summed: measured again until `window` is over."""
    rates: list[float] = []
    until = time.monotonic() + window
    while len(rates) < 2 or time.monotonic() < until:
        for server in servers:
            server.ask(GO)
        rates.append(sum(float(server.answer(seconds)) for server in servers))
    return rates
