"""Where the time of a training step goes: its kernels, and what is none of the device's time.

    python -m tests.gpu.profiling

Each line of stdin is a job of the bench in JSON, and is answered with its profile in JSON: in a
process of its own, which a profiler that crashes takes with it.
"""

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dsdctl.bench.cases import Job
from dsdctl.bench.ours import prepare

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
"""Kinds of events in a trace that are the device at work."""


def main() -> None:
    # The profiler's own advice where graphs are replayed: without it a second profile may crash.
    os.environ.update(DISABLE_CUPTI_LAZY_REINIT="1", TEARDOWN_CUPTI="0")
    for line in sys.stdin:
        print(json.dumps(profile_steps(Job.model_validate_json(line))), flush=True)


def profile_steps(job: Job) -> dict[str, Any]:
    """Profile an epoch of `job.batches` steps, after others that were timed without a profiler."""
    work = prepare(job)
    work.run()
    walls = []
    for _ in range(3):
        started = time.perf_counter()
        work.run()
        walls.append(time.perf_counter() - started)
    on_gpu = job.device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        work.run()
        if on_gpu:
            torch.cuda.synchronize()
    events = _events(found, ON_DEVICE if on_gpu else ("cpu_op",))
    return {
        "steps": job.batches,
        "wall_us_per_step": min(walls) / job.batches * 1e6,
        **summary(events, job.batches, min(walls) * 1e6),
    }


def summary(events: list[tuple[str, float, float]], steps: int, wall_us: float) -> dict[str, Any]:
    """What events (name, start, duration, in microseconds) of `steps` amount to.

    The host's share is that of the wall time in which the device has nothing to do.
    """
    busy = _union([(start, start + duration) for _, start, duration in events])
    by_name: dict[str, list[float]] = defaultdict(list)
    for name, _, duration in events:
        by_name[name].append(duration)
    top = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:10]
    return {
        "kernels_per_step": len(events) / steps,
        "device_us_per_step": busy / steps,
        "host_share": 1 - busy / wall_us,
        "top": [
            {
                "kernel": name[:200],
                "times_per_step": len(durations) / steps,
                "us_per_step": sum(durations) / steps,
            }
            for name, durations in top
        ],
    }


def _union(spans: list[tuple[float, float]]) -> float:
    """How long at least one of the spans lasts."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def _events(found: profile, kinds: tuple[str, ...]) -> list[tuple[str, float, float]]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        found.export_chrome_trace(str(file))
        trace = json.loads(file.read_text())
    return [
        (event["name"], float(event["ts"]), float(event["dur"]))
        for event in trace["traceEvents"]
        if event.get("cat") in kinds and "dur" in event
    ]


if __name__ == "__main__":
    main()
