"""How fast a GPU trains: rates with several trajectories at once, ceilings, profiles."""

import itertools
import json
import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch

from dsdctl.bench.cases import Job
from dsdctl.bench.ceilings import measure_ceilings
from dsdctl.bench.results import CaseName, Ceilings
from dsdctl.ml.kernels.choice import Mode
from dsdctl.spec.fields import Precision
from dsdctl.system.devices import usable_cores

from .attainable import attainable
from .options import Box
from .servers import Server, measure, prepare
from .small import KERNELS

Way = Literal["streams", "processes"]

WINDOW = 1.0
"""Seconds that a rate is measured for, two measurements at least."""

PATIENCE = 40.0
"""Seconds that a process may take to get ready for a job or to time it."""

RESERVE = 8.0
"""Seconds of the box in which nothing new is begun."""

MOST = 6
"""Trajectories at once."""


@dataclass(frozen=True)
class Rate:
    """One thing to measure."""

    case: CaseName | Literal["table"]
    precision: Precision = "bf16"
    at_once: int = 1
    way: Way = "streams"
    kernels: Mode = KERNELS
    plain: bool = False

    @property
    def what(self) -> str:
        if self.plain:
            return f"plain loop, {self.case} {self.precision}"
        kernels = "" if self.kernels == KERNELS else ", kernels off"
        one = "one" if self.at_once == 1 else f"{self.at_once} {self.way}"
        return f"{self.case} {self.precision}, {one}{kernels}"


def plan(tiny: bool) -> Iterator[Rate | str]:
    """What is measured, most important first; a case's name is its profile."""
    if tiny:
        yield from (Rate("student"), Rate("student", at_once=2), "student")
        yield from (Rate("student", at_once=2, way="processes"), Rate("student", plain=True))
        return
    trained: tuple[CaseName, ...] = ("student", "student-distilled", "teacher")
    yield from (Rate("student", at_once=count) for count in (1, 3))
    yield from (Rate(case) for case in trained[1:])
    yield from trained[::2]
    yield Rate("student", plain=True, precision="fp32")
    yield from (Rate(case, at_once=3) for case in trained[1:])
    yield Rate("student", at_once=3, way="processes")
    yield from (Rate(case, kernels="off") for case in trained)
    yield from (Rate("student", at_once=3, kernels="off"), Rate("student", at_once=6))
    yield from (Rate("table"), Rate("measure"), Rate("table", "fp32"))
    yield Rate("student", at_once=6, way="processes")
    yield from (Rate("student-distilled", at_once=6), Rate("teacher", at_once=3, way="processes"))
    yield from (Rate(case, precision) for precision in ("fp32", "tf32") for case in trained)
    yield from (Rate("student", at_once=2), Rate("student", at_once=2, way="processes"))
    yield from (Rate("student-distilled", at_once=3, way="processes"), Rate("teacher", at_once=2))
    yield from (Rate("teacher", at_once=3, kernels="off"), Rate("measure", "fp32"))
    yield from (Rate("student", precision, at_once=3) for precision in ("tf32", "fp32"))
    yield from (Rate("student-distilled", at_once=3, kernels="off"), Rate("measure", at_once=3))
    yield from (Rate("table", "tf32"), Rate("table", at_once=3), Rate("measure", "tf32"))
    yield from (Rate("teacher", at_once=6), Rate("student-distilled", at_once=2))


def batches(case: str, precision: Precision, *, plain: bool, device: str) -> int:
    """Of 128 images in one measurement: an epoch of CIFAR-10 where that is a matter of a second."""
    if device == "cpu":
        return 2
    if plain:
        return 60
    if precision != "bf16":
        return {"teacher": 40, "table": 30}.get(case, 150)
    return {"teacher": 100, "table": 60}.get(case, 390)


class Bench:
    """The processes that measure, started on demand and kept for what comes next."""

    def __init__(self, box: Box):
        self._box = box
        self._device = box.options.device
        self._idle: dict[str, list[Server]] = {}
        # All are started now, to import torch while others measure.
        for name, count in self._wanted().items():
            kernels: Mode = "off" if name == "off" else KERNELS
            self._idle[name] = [Server(kernels=kernels) for _ in range(count)]
        self._profiler = Server("tests.gpu.profiling")

    def _wanted(self) -> dict[str, int]:
        if self._box.options.tiny:
            return {KERNELS: 1, "plain": 1, "processes": 2}
        return {KERNELS: 1, "plain": 1, "off": 1, "processes": MOST}

    def rate(self, rate: Rate) -> dict[str, Any]:
        """Measure one thing, and say all that there is to say of it."""
        name = "plain" if rate.plain else rate.kernels
        name = "processes" if rate.way == "processes" else name
        count = rate.at_once if rate.way == "processes" else 1
        servers = self._idle[name] = [server.alive() for server in self._idle[name]]
        patience = self._patience()
        prepare(servers[:count], self._job(rate), patience)
        window = 0.0 if self._box.options.tiny else WINDOW
        rates = measure(servers[:count], window, patience)
        return {
            "what": rate.what,
            **vars(rate),
            "images_per_second": statistics.median(rates),
            "rates": rates,
        }

    def _patience(self) -> float:
        return min(PATIENCE, max(5.0, self._box.left - 3))

    def _job(self, rate: Rate) -> Job:
        cores = usable_cores()
        return Job(
            side="plain" if rate.plain else "ours",
            case=rate.case,
            precision=rate.precision,
            device=self._device,
            threads=cores if rate.plain else 1,
            batches=batches(rate.case, rate.precision, plain=rate.plain, device=self._device),
            images=None,
            loader_workers=min(8, cores) if rate.plain and not self._box.options.tiny else 0,
            kernels=rate.kernels,
            streams=rate.at_once if rate.way == "streams" else 1,
        )

    def profiles(self, case: CaseName) -> Iterator[tuple[str, dict[str, Any]]]:
        """Profile steps of a case, replayed and as they are."""
        self._profiler = self._profiler.alive()
        for recorded in (True, False):
            job = self._job(Rate(case)).model_copy(
                update={"batches": 20 if self._device == "cuda" else 2, "recorded": recorded}
            )
            self._profiler.ask(job.model_dump_json())
            answer = ""
            while not answer.startswith("{"):  # what the profiler itself has to say
                answer = self._profiler.answer(self._patience())
            yield f"{case}, {'recorded' if recorded else 'as it is'}", json.loads(answer)

    def end(self) -> None:
        for server in [self._profiler, *itertools.chain(*self._idle.values())]:
            server.end()


def main() -> int:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in `dsdctl run`
    box = Box.of("fast", __doc__ or "")
    bench = Bench(box)
    try:
        most = _attainable(_ceilings(box))
        for one in plan(box.options.tiny):
            if box.left < RESERVE:
                box.results.setdefault("left_out", []).append(_name(one))
                continue
            try:
                _measure(box, bench, one)
                _compare(box, most)
            except Exception as error:
                if box.left < RESERVE:  # it was only begun too late
                    box.results.setdefault("left_out", []).append(_name(one))
                else:
                    box.failed(_name(one), f"{type(error).__name__}: {error}")
    finally:
        bench.end()
    return box.finish()


def _name(one: Rate | str) -> str:
    return one.what if isinstance(one, Rate) else f"profile of {one}"


def _measure(box: Box, bench: Bench, one: Rate | str) -> None:
    if isinstance(one, Rate):
        found = bench.rate(one)
        box.results.setdefault("rates", []).append(found)
        print(f"{box.left:6.1f} s left: {one.what}: {found['images_per_second']:.0f}", flush=True)
    else:
        case: CaseName = "teacher" if one == "teacher" else "student"
        for name, found in bench.profiles(case):
            box.results.setdefault("profiles", {})[name] = found
    box.keep()


def _ceilings(box: Box) -> Ceilings:
    device = torch.device(box.options.device)
    if device.type == "cpu":
        torch.set_num_threads(usable_cores())
        precisions: tuple[Precision, ...] = ("fp32", "bf16")
    else:
        box.keep(gpu=torch.cuda.get_device_name(), torch=torch.__version__)
        precisions = ("bf16", "tf32", "fp32")
    ceilings = measure_ceilings(device, precisions)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    box.keep(ceilings=ceilings.model_dump())
    return ceilings


def _attainable(ceilings: Ceilings) -> dict[str, dict[str, Any]]:
    cases: tuple[CaseName, ...] = ("student", "teacher")
    return {case: attainable(case, ceilings) for case in cases}


def _compare(box: Box, most: dict[str, dict[str, Any]]) -> None:
    """Set the best of our rates beside what the ceilings allow, and beside the plain loop's."""
    rates: list[dict[str, Any]] = box.results.get("rates", [])
    best: dict[str, float | None] = {}
    for case in most:
        best[case] = max(
            (
                rate["images_per_second"]
                for rate in rates
                if (rate["case"], rate["precision"]) == (case, "bf16") and not rate["plain"]
            ),
            default=None,
        )
    box.results["attainable"] = {
        case: {
            **found,
            "best_of_ours": (ours := best[case]),
            "share": round(ours / found["images_per_second"], 3) if ours else None,
        }
        for case, found in most.items()
    }
    plain = [rate["images_per_second"] for rate in rates if rate["plain"]]
    if plain and (ours := best["student"]):
        box.results["times_the_plain_loop"] = round(ours / plain[0], 1)
    box.keep()


if __name__ == "__main__":
    sys.exit(main())
