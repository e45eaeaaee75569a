"""One process of a side: reads its job, prepares, and times the work each time it is asked to.

    python -m dsdctl.bench.side

A line of stdin that is a job in JSON is answered with `ready` after one warm-up; it takes the place
of the job before it. A line `go` asks for one measurement of it and is answered with images a
second, those of all its streams together. The end of stdin is the end.
"""

import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

from dsdctl.bench.cases import Job, Work
from dsdctl.system.devices import KERNELS_VARIABLE

GO = "go"

Timed = tuple[int, float, float]
"""Images that a work went through, when it began and when it had ended, in seconds."""


def main() -> None:
    """Serve one side until the end of stdin."""
    measure: Callable[[], float] = float
    for line in sys.stdin:
        if line.strip() == GO:
            print(measure(), flush=True)
        else:
            del measure  # what the job before holds on a GPU may be needed
            torch.cuda.empty_cache()
            measure = ready(Job.model_validate_json(line))
            print("ready", flush=True)


def ready(job: Job) -> Callable[[], float]:
    """Prepare a job and run it once; return what measures it: images a second."""
    os.environ[KERNELS_VARIABLE] = job.kernels
    if job.streams == 1:
        work = _warm(job)
        return lambda: _rate([_timed(work, job, lambda: None)])
    lanes = [
        ThreadPoolExecutor(1, initializer=_own_stream, initargs=(job,)) for _ in range(job.streams)
    ]
    # One after the other: a warm-up records its step, and beside a recording there is no work.
    works = [lane.submit(_warm, job).result() for lane in lanes]

    def measure() -> float:
        wait = functools.partial(threading.Barrier(job.streams).wait, timeout=60)
        running = [
            lane.submit(_timed, work, job, wait) for lane, work in zip(lanes, works, strict=True)
        ]
        return _rate([one.result() for one in running])

    return measure


def _own_stream(job: Job) -> None:
    """Give this thread a stream of the GPU's for all that it does."""
    if job.device == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]


def _warm(job: Job) -> Work:
    if job.side == "ours":
        from dsdctl.bench.ours import prepare
    else:
        from dsdctl.bench.plain import prepare
    work = prepare(job)
    work.run()
    _synchronise(job)
    return work


def _timed(work: Work, job: Job, wait: Callable[[], object]) -> Timed:
    """Run once, from when all others `wait` no longer."""
    work.settle()
    _synchronise(job)
    wait()
    started = time.perf_counter()
    images = work.run()
    _synchronise(job)
    return images, started, time.perf_counter()


def _rate(timed: list[Timed]) -> float:
    """Images a second, from the first start to the last end."""
    images, started, ended = zip(*timed, strict=True)
    return float(sum(images) / (max(ended) - min(started)))


def _synchronise(job: Job) -> None:
    if job.device == "cuda":
        torch.cuda.current_stream().synchronize()


if __name__ == "__main__":
    main()
