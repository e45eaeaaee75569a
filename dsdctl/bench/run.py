"""Measure every case: both sides in turn, several times, in one run.

Ours runs as `dsdctl run` does: on a CPU in one process a core on one thread each, rates summed; on
a GPU in one process, with a thread and a stream for each job. The plain loop runs in one process
with all cores. Processes wait idle while another one is measured.
"""

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

import dsdctl
from dsdctl.bench.cases import Job, case_images, macs_per_image
from dsdctl.bench.ceilings import measure_ceilings
from dsdctl.bench.processes import side
from dsdctl.bench.results import (
    BenchResult,
    CaseName,
    CaseResult,
    Ceilings,
    Spread,
    TableResult,
)
from dsdctl.ml import gpu
from dsdctl.ml.kernels import kernels
from dsdctl.ml.kernels.choice import Mode, kernel_mode
from dsdctl.spec.fields import Precision
from dsdctl.system.devices import Device, usable_cores

TABLE1_FORWARDS = 50_000 * 162
"""Training images of specs/table1.yaml times the views that flip and crop give."""

LOADER_WORKERS = (0, 2)
"""The plain loop is tried with so many, and with one a core: a GPU may want more than two."""


def run_bench(
    device: Device,
    *,
    jobs: int | None,
    repeats: int,
    batches: int,
    images: Path | None,
    names: Sequence[CaseName],
    notify: Callable[[str], None],
) -> BenchResult:
    """Measure the cases of `names`, and with the distilled one how fast a teacher table is built.

    `batches` is how many training batches are timed at once.

    Raises InputError where `images` does not fit, WorkError where a side's process fails.
    """
    started = time.perf_counter()
    cores = usable_cores()
    processes, streams = (jobs or cores, 1) if device == "cpu" else (1, jobs or 1)
    precisions: tuple[Precision, ...] = ("fp32", "bf16") if device == "cpu" else get_args(Precision)
    job = Job(
        side="ours",
        case="student",
        precision="fp32",
        device=device,
        threads=1,
        batches=batches,
        images=str(images) if images else None,
        streams=streams,
    )
    case_images(job)  # refuses unfit images before anything is measured
    torch.set_num_threads(cores)
    ceilings = measure_ceilings(torch.device(device), precisions)
    bench = _Bench(job, processes, cores, repeats, notify)
    rates = [
        measured
        for case in names
        for measured in bench.case(case, ("fp32",) if case == "digits-level" else precisions)
    ]
    # Others may use the machine at one of the two moments.
    ceilings = ceilings.or_higher(measure_ceilings(torch.device(device), precisions))
    return BenchResult(
        device=_device_name(device),
        versions=_versions(),
        processes=processes,
        streams=streams,
        plain_threads=cores,
        ceilings=ceilings,
        kernels=_kernels_said(device),
        cases=tuple(one.result(ceilings) for one in rates),
        table=bench.table() if "student-distilled" in names else None,
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Rates:
    """Images a second of a case in one precision, by repeat."""

    case: CaseName
    precision: Precision
    ours: Sequence[float]
    without_kernels: Sequence[float] | None
    plain: Sequence[float]
    plain_workers: int

    @property
    def ratio(self) -> Spread:
        return Spread.of_ratios(self.ours, self.plain)

    @property
    def kernels_ratio(self) -> Spread | None:
        without = self.without_kernels
        return None if without is None else Spread.of_ratios(self.ours, without)

    @property
    def line(self) -> str:
        """What is said as soon as they are known."""
        worth = self.kernels_ratio
        return (
            f"{self.case} {self.precision}: {Spread.of(self.ours).median:.0f} images/s, "
            f"{self.ratio.median:.2f} x the plain loop"
            + (f", {worth.median:.2f} x without kernels" if worth else "")
        )

    def result(self, ceilings: Ceilings) -> CaseResult:
        """The rates as they are reported, beside what the machine itself reaches."""
        flops = Spread.of(self.ours).median * 2 * macs_per_image(self.case)
        without = self.without_kernels
        return CaseResult(
            name=self.case,
            precision=self.precision,
            images_per_second=Spread.of(self.ours),
            plain_images_per_second=Spread.of(self.plain),
            plain_workers=self.plain_workers,
            ratio=self.ratio,
            share_of_ceiling=flops / ceilings.matmul_flops_per_second[self.precision],
            images_per_second_without_kernels=None if without is None else Spread.of(without),
            kernels_ratio=self.kernels_ratio,
        )


class _Bench:
    """The settings that all cases of a run share."""

    def __init__(
        self,
        job: Job,
        processes: int,
        cores: int,
        repeats: int,
        notify: Callable[[str], None],
    ):
        self._job = job
        self._processes = processes
        self._cores = cores
        self._repeats = repeats
        self._notify = notify

    def case(self, case: CaseName, precisions: Sequence[Precision]) -> list["_Rates"]:
        """One case in every precision, in turn with the best plain loop."""
        modes = self._modes(case)
        with ExitStack() as stack:
            plains = {
                workers: stack.enter_context(side([self._plain_job(case, workers)]))
                for workers in sorted({*LOADER_WORKERS, self._cores})
            }
            workers = max(plains, key=lambda count: plains[count]())
            sides = {
                (precision, mode): stack.enter_context(
                    side([self._our_job(case, precision, mode)] * self._processes)
                )
                for precision in precisions
                for mode in modes
            }
            plain: list[float] = []
            ours: dict[tuple[Precision, Mode], list[float]] = {side: [] for side in sides}
            for repeat in range(self._repeats):
                plain.append(plains[workers]())
                for precision in precisions:
                    # Neither mode has always the later turn.
                    for mode in modes if repeat % 2 == 0 else modes[::-1]:
                        ours[precision, mode].append(sides[precision, mode]())
        found = []
        for precision in precisions:
            rates, *without = (ours[precision, mode] for mode in modes)
            measured = _Rates(
                case, precision, rates, without[0] if without else None, plain, workers
            )
            self._notify(measured.line)
            found.append(measured)
        return found

    def _modes(self, case: CaseName) -> tuple[Mode, ...]:
        """Kernels as they are wanted; and without them, where that makes a difference."""
        wanted = kernel_mode()
        if self._job.device == "cpu":
            used = any(choice.instructions for choice in kernels.choices().values())
        else:
            used = gpu.used_on(torch.device("cuda"))
        trains = case != "measure"  # in eval mode none is called
        return (wanted, "off") if used and trains else (wanted,)

    def table(self) -> TableResult:
        """Building the table of the distilled case's teacher, in fp32."""
        with side([self._our_job("table", "fp32", "off")] * self._processes) as measure:
            rates = Spread.of([measure() for _ in range(self._repeats)])
        seconds = TABLE1_FORWARDS / rates.median
        return TableResult(
            forwards_per_second=rates, table1_forwards=TABLE1_FORWARDS, table1_seconds=seconds
        )

    def _our_job(self, case: CaseName | Literal["table"], precision: Precision, mode: Mode) -> Job:
        update = {"case": case, "precision": precision, "kernels": mode}
        return self._job.model_copy(update=update)

    def _plain_job(self, case: CaseName, workers: int) -> Job:
        return self._job.model_copy(
            update={
                "side": "plain",
                "streams": 1,
                "case": case,
                "threads": self._cores,
                "loader_workers": workers,
            }
        )


def _kernels_said(device: Device) -> dict[str, str]:
    """Each kernel, and whether it is used and why."""
    if device == "cuda":
        return {"triton": gpu.said()}
    return {kernel: str(choice) for kernel, choice in kernels.choices().items()}


def _versions() -> dict[str, str]:
    return {
        "dsdctl": dsdctl.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _device_name(device: Device) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {usable_cores()} cores"
