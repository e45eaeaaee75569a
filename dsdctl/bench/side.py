"""One process of a side: reads its job, prepares, and times the work each time it is asked to.

    python -m dsdctl.bench.side

The first line of stdin is the job in JSON; the answer is `ready` after one warm-up. Each further
line asks for one measurement and is answered with images a second. The end of stdin is the end.
"""

import os
import sys
import time

import torch

from dsdctl.bench.cases import Job
from dsdctl.ml.kernel_choice import VARIABLE


def main() -> None:
    """Serve one side until the end of stdin."""
    job = Job.model_validate_json(sys.stdin.readline())
    os.environ[VARIABLE] = job.kernels
    if job.side == "ours":
        from dsdctl.bench.ours import prepare
    else:
        from dsdctl.bench.plain import prepare
    work = prepare(job)
    work.run()
    print("ready", flush=True)
    for _ in sys.stdin:
        work.settle()
        _synchronise(job)
        started = time.perf_counter()
        images = work.run()
        _synchronise(job)
        print(images / (time.perf_counter() - started), flush=True)


def _synchronise(job: Job) -> None:
    if job.device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
