"""Is what a GPU computes right: each check with its numbers, kept as it ends."""

import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import checks_agreement, checks_bytes, checks_runs
from .options import Box

Check = Callable[[str, bool, Path], dict[str, Any]]
"""(device, tiny, a folder of its own) -> numbers, and under `holds` whether they are as wanted;
None where that cannot be tried."""

BESIDE: tuple[Check, ...] = (
    checks_runs.jobs_at_once_give_the_bytes_of_one,
    checks_runs.gradients_with_and_without_kernels,
    checks_runs.keys_and_costs_are_those_of_a_machine_without_a_gpu,
)
"""Checks that wait for processes of their own, meanwhile."""

HERE: tuple[Check, ...] = (
    checks_bytes.recorded_steps_are_the_steps,
    checks_bytes.two_runs_give_the_same_bytes,
    checks_bytes.interrupted_and_resumed_gives_the_same_bytes,
    checks_agreement.gradients_against_float64,
    checks_agreement.masks,
    checks_agreement.entropy,
    checks_agreement.table_lookup,
    checks_agreement.macs,
    checks_bytes.a_level_that_diverges,
    checks_bytes.streams_at_once_give_the_same_bytes,
)
LAST: tuple[Check, ...] = (checks_runs.a_full_memory,)
"""With the GPU to itself."""


def main() -> int:
    # Before CUDA starts, as in every process of `dsdctl run`.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    box = Box.of("right", __doc__ or "")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(BESIDE)) as pool:
        beside = [pool.submit(_run, check, box, Path(folder)) for check in BESIDE]
        for check in HERE:
            _keep(box, _run(check, box, Path(folder)))
        for one in beside:
            _keep(box, one.result())
        for check in LAST:
            _keep(box, _run(check, box, Path(folder)))
    return box.finish()


def _run(check: Check, box: Box, folder: Path) -> dict[str, Any]:
    own, started = folder / check.__name__, time.monotonic()
    own.mkdir()
    try:
        found = check(box.options.device, box.options.tiny, own)
        holds = found.pop("holds")
        outcome = "skipped" if holds is None else "pass" if holds else "fail"
    except Exception as error:
        traceback.print_exc()
        found, outcome = {"error": f"{type(error).__name__}: {error}"[:2000]}, "fail"
    seconds = round(time.monotonic() - started, 2)
    return {"check": check.__name__, "outcome": outcome, "seconds": seconds, "details": found}


def _keep(box: Box, outcome: dict[str, Any]) -> None:
    print(outcome["check"], outcome["outcome"], outcome["seconds"], flush=True)
    box.results.setdefault("checks", []).append(outcome)
    box.keep(ok=box.results["ok"] and outcome["outcome"] != "fail")


if __name__ == "__main__":
    sys.exit(main())
