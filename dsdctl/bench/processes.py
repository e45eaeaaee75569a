"""Processes of a side, started together and measured together."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from dsdctl.bench.cases import Job
from dsdctl.bench.side import GO
from dsdctl.errors import WorkError


@contextmanager
def side(jobs: Sequence[Job]) -> Iterator[Callable[[], float]]:
    """Start a process for each of `jobs`; yield what measures them all at once, rates summed.

    Raises WorkError where one of them fails.
    """
    command = [sys.executable, "-m", "dsdctl.bench.side"]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
            )
            for _ in jobs
        ]
        for process, job in zip(processes, jobs, strict=True):
            stack.callback(process.kill)
            _ask(process, job.model_dump_json())
        for process in processes:
            _answer(process)

        def measure() -> float:
            for process in processes:
                _ask(process, GO)
            return sum(float(_answer(process)) for process in processes)

        yield measure
        for process in processes:
            process.communicate()  # at the end of its input it ends, and its loader's workers do


def _ask(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(line + "\n")
    except BrokenPipeError as error:
        raise WorkError(f"a process of the bench ended with {process.wait()}") from error


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise WorkError(f"a process of the bench ended with {process.wait()}")
    return line.strip()
