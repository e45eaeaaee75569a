"""Run the stages one after the other, each in its time box, and print a short table."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dsdctl.ml.kernels.choice import Mode
from dsdctl.system.devices import KERNELS_VARIABLE, has_gpu_driver

from .options import SHARES, STAGES, Stage, parser
from .small import KERNELS
from .summary import lines

STARTING = 4.0
"""Seconds before a stage's box begins, in which it imports torch."""

GRACE = 8.0
"""Seconds that a stage has to end in after its box, told to; then it is killed."""


def main() -> int:
    made = parser("The path on a GPU, proven and measured.")
    made.add_argument("--minutes", type=float, default=8.0, help="for all stages")
    made.add_argument("--only", choices=STAGES, help="this stage, in its share of the minutes")
    options = made.parse_args()
    if options.device == "cuda" and not has_gpu_driver():
        made.error("--device: cuda, but there is no driver of a GPU here (allowed: cpu)")
    options.out.mkdir(parents=True, exist_ok=True)
    stages = (options.only,) if options.only else STAGES
    if not options.only:
        (options.out / "log.txt").unlink(missing_ok=True)
    ended: dict[str, str] = {}
    for stage in stages:
        (options.out / f"{stage}.json").unlink(missing_ok=True)
        os.environ[KERNELS_VARIABLE] = _kernels(stage, options.out)
        ended[stage] = _run(stage, SHARES[stage] * options.minutes * 60, options.out, _passed_on())
    results = {stage: _results(options.out, stage) for stage in stages}
    for line in lines(results, ended):
        print(line)
    whole = all(ended[s] == "ended" and results[s].get("finished") for s in stages)
    return 0 if whole and all(results[s].get("ok") for s in stages) else 1


def _kernels(stage: Stage, out: Path) -> Mode:
    """What a stage computes with: kernels that a check before has found wrong, in no table."""
    found = _results(out, "right").get("checks", [])
    wrong = any(one["outcome"] == "fail" for one in found)
    return "off" if stage == "table1" and wrong else KERNELS


def _passed_on() -> list[str]:
    """The command's own arguments but those that are for it alone."""
    given, kept = sys.argv[1:], []
    while given:
        word = given.pop(0)
        if word.split("=")[0] not in ("--minutes", "--only"):
            kept.append(word)
        elif "=" not in word:
            given.pop(0)
    return kept


def _run(stage: Stage, seconds: float, out: Path, arguments: list[str]) -> str:
    """Run a stage in a session of its own; say how that ended."""
    line = [sys.executable, "-m", f"tests.gpu.{stage}", *arguments, "--seconds", str(seconds)]
    print(f"{stage}: up to {seconds:.0f} s", flush=True)
    started = time.monotonic()
    with (out / "log.txt").open("a") as log:
        log.write(f"== {stage}\n")
        log.flush()
        process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)
        try:
            code = process.wait(STARTING + seconds)
            how = "ended" if code in (0, 1) else f"crashed with {code}"
        except subprocess.TimeoutExpired:
            how = "was cut off by its box"
            _signal(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
        finally:
            _signal(process, signal.SIGKILL)  # and whatever it has left running
            process.wait()
    print(f"{stage}: {how} after {time.monotonic() - started:.0f} s", flush=True)
    return how


def _signal(process: "subprocess.Popen[bytes]", number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _results(out: Path, stage: Stage) -> dict[str, Any]:
    file = out / f"{stage}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found


if __name__ == "__main__":
    sys.exit(main())
