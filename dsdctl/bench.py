"""`dsdctl bench`: how fast this machine trains with dsdctl, against a plain PyTorch loop.

Both sides run in one call, in turn, several times, on the same number of processor cores: ours as
`dsdctl run` does it (a process a core, one thread each, rates summed), the plain loop in one
process with all cores. Images a second, median and spread; ratios are taken pair by pair.
"""

import functools
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import dsdctl
from dsdctl import bench_plain
from dsdctl.errors import InputError
from dsdctl.ml.data import Data, Normalisation, Split, ViewReader, Views, load_digits
from dsdctl.ml.device import configure
from dsdctl.ml.macs import count_macs
from dsdctl.ml.masks import Masks, dense_masks, prunable_weights, prune_by_magnitude
from dsdctl.ml.measure import measure
from dsdctl.ml.models import Network, build_network
from dsdctl.ml.teacher import build_table, distilled, looked_up
from dsdctl.ml.train import LossFunction, Settings, Trainer, cross_entropy
from dsdctl.spec import Model

CaseName = Literal["student", "student-distilled", "teacher", "measure", "digits-level"]
Precision = Literal["fp32", "tf32", "bf16"]

SEED, BATCH, DIGITS_BATCH = 0, 128, 100
IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Normalisation((0.3,), (0.37,))
CIFAR_VIEWS = Views(flip=True, crop=4)


class Spread(Model):
    """Median, lowest and highest of the repeats."""

    median: float
    min: float
    max: float


class Ceilings(Model):
    """What the machine itself reaches, measured in the same call."""

    matmul_flops_per_second: dict[str, float]
    copy_bytes_per_second: float


class CaseResult(Model):
    """Rates of one case. The plain loop is always fp32; `ratio` compares with that."""

    name: CaseName
    precision: Precision
    images_per_second: Spread
    plain_images_per_second: Spread
    ratio: Spread
    share_of_ceiling: float = Field(description="2 FLOPs a MAC, over the matrix product's rate")


class BenchResult(Model):
    """Everything that one call measured."""

    device: str
    versions: dict[str, str]
    ceilings: Ceilings
    cases: tuple[CaseResult, ...]
    table_seconds: float = Field(description="building the teacher table of the distilled case")

    model_config = ConfigDict(protected_namespaces=())


@dataclass(frozen=True)
class Job:
    """One side's share of a case: what a worker process is asked to time."""

    case: CaseName
    precision: Precision
    device: Literal["cpu", "cuda"]
    batches: int
    images: str | None


def run_bench(
    device: Literal["cpu", "cuda"],
    *,
    repeats: int = 3,
    batches: int = 6,
    images: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> BenchResult:
    """Measure every case. `batches` is how many training batches a side runs at a time."""
    if images is not None:
        load_images(images, 1)
    cores = len(os.sched_getaffinity(0)) if device == "cpu" else 1
    ceilings = _ceilings(torch.device(device))
    results: list[CaseResult] = []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context) as workers:
        for case in ("student", "student-distilled", "teacher", "measure", "digits-level"):
            results += _case(case, device, cores, workers, repeats, batches, images, ceilings, say)
        job = Job("student-distilled", "fp32", device, batches, str(images) if images else None)
        table_seconds = workers.submit(_time_table, job).result()
    return BenchResult(
        device=_device_name(device),
        versions={"torch": torch.__version__, "dsdctl": dsdctl.__version__,
                  "python": platform.python_version()},
        ceilings=ceilings,
        cases=tuple(results),
        table_seconds=table_seconds,
    )  # fmt: skip


def _case(
    case: CaseName,
    device: Literal["cpu", "cuda"],
    cores: int,
    workers: ProcessPoolExecutor,
    repeats: int,
    batches: int,
    images: Path | None,
    ceilings: Ceilings,
    say: Callable[[str], None],
) -> list[CaseResult]:
    """One case in every precision, in turn with the plain loop."""
    precisions: list[Precision] = ["fp32", "bf16"] if device == "cpu" else ["fp32", "tf32", "bf16"]
    if case == "digits-level":
        precisions = ["fp32"]
    ours: dict[Precision, list[float]] = {precision: [] for precision in precisions}
    plain: list[float] = []
    job = Job(case, "fp32", device, batches, str(images) if images else None)
    dataloader_workers = _better_worker_count(job, cores)
    for _ in range(repeats):
        plain.append(_plain_rate(job, dataloader_workers, cores))
        for precision in precisions:
            shares = [Job(case, precision, device, batches, job.images)] * cores
            ours[precision].append(sum(workers.map(_our_rate, shares)))
    found = [_result(case, precision, rates, plain, ceilings) for precision, rates in ours.items()]
    for result in found:
        say(result_line(result))
    return found


def _result(
    case: CaseName,
    precision: Precision,
    rates: Sequence[float],
    plain: Sequence[float],
    ceilings: Ceilings,
) -> CaseResult:
    peak = ceilings.matmul_flops_per_second[precision]
    return CaseResult(
        name=case,
        precision=precision,
        images_per_second=_spread(rates),
        plain_images_per_second=_spread(plain),
        ratio=_spread([ours / theirs for ours, theirs in zip(rates, plain, strict=True)]),
        share_of_ceiling=statistics.median(rates) * 2 * _macs_per_image(case) / peak,
    )


# Our side


def _our_rate(job: Job) -> float:
    """Images a second of this process, after a warm-up."""
    device = torch.device(job.device)
    configure(device, threads=1)
    run, images = _prepared(job, device)
    run(0)
    _synchronise(device)
    started = time.perf_counter()
    run(1)
    _synchronise(device)
    return images / (time.perf_counter() - started)


def _prepared(job: Job, device: torch.device) -> tuple[Callable[[int], object], int]:
    """A function that runs epoch `e` of the case, and how many images that are."""
    split, normalisation, views = case_images(job, device)
    if job.case == "measure":
        data = Data(split, split.labels, split, split, 10)
        network = case_network("measure").to(device)
        # Training, validation and test images are the same here; the entropy pass is the first.
        return lambda _: measure(network, data, normalisation, job.precision), len(split)
    network = case_network(job.case).to(device)
    masks = case_masks(network)
    loss: LossFunction = cross_entropy
    if job.case == "student-distilled":
        # The rate of the lookup does not depend on what the table holds.
        table = torch.randn(len(split), views.count, 10, device=device)
        loss = distilled(looked_up(table), alpha=0.8, temperature=10.0)
    batch = DIGITS_BATCH if job.case == "digits-level" else BATCH
    trainer = Trainer(network, masks, _settings(batch, job.precision), loss)
    reader = ViewReader(split.images, normalisation, views)
    return lambda epoch: trainer.train_epoch(
        reader, split.labels, seed=SEED, level=1, epoch=epoch
    ), len(split)


def _time_table(job: Job) -> float:
    """Seconds to build the table for `job`'s images in this process."""
    device = torch.device(job.device)
    configure(device, threads=1)
    split, normalisation, views = case_images(job, device)
    split = split.take(torch.arange(min(len(split), BATCH), device=device))
    reader = ViewReader(split.images, normalisation, Views(views.flip, 0))
    teacher = case_network("teacher").to(device)
    started = time.perf_counter()
    build_table(teacher, reader, len(split), "fp32", device)
    return (time.perf_counter() - started) / reader.views.count * views.count


# Both sides


def case_images(job: Job, device: torch.device) -> tuple[Split, Normalisation, Views]:
    """The images of a case: digits, the given archive's first, or random ones."""
    if job.case == "digits-level":
        digits = load_digits().train.take(torch.arange(job.batches * DIGITS_BATCH * 2))
        return _moved(digits, device), GREY, Views()
    count = job.batches * BATCH
    if job.images is not None:
        split = load_images(Path(job.images), count)
    else:
        stream = torch.Generator().manual_seed(SEED)
        pixels = torch.randint(0, 256, (count, 32, 32, 3), generator=stream, dtype=torch.uint8)
        split = Split(pixels, torch.randint(0, 10, (count,), generator=stream))
    return _moved(split, device), IMAGENET, CIFAR_VIEWS


def load_images(file: Path, count: int) -> Split:
    """The first `count` of an archive's x_train (N, 32, 32, 3) and y_train. Raises InputError."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            images, labels = archive["x_train"][:count], archive["y_train"][:count]
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"--images: {file}: not a readable archive ({error})") from error
    if images.dtype != np.uint8 or images.shape[1:] != (32, 32, 3) or labels.max() > 9:
        raise InputError(f"--images: {file}: x_train is {images.dtype} {images.shape} "
                         "(allowed: uint8 N x 32 x 32 x 3 and labels 0 to 9)")  # fmt: skip
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def case_network(case: CaseName) -> Network:
    """The network that a case trains or measures."""
    if case == "teacher":
        return build_network("resnet18", 3, 10, seed=SEED)
    if case == "digits-level":
        return build_network("vgg-like", 1, 10, seed=SEED, depth=2, width=32, pool=2)
    return build_network("vgg-like", 3, 10, seed=SEED, depth=5, width=32)


def case_masks(network: nn.Module) -> Masks:
    """The masks of level 1: 20 % of the weights are gone."""
    weights = prunable_weights(network)
    return prune_by_magnitude(weights, dense_masks(weights), 0.2)


def _settings(batch: int, precision: Precision) -> Settings:
    return Settings(2, batch, 0.1, 0.9, 1e-4, (), 0.1, precision)


def _macs_per_image(case: CaseName) -> int:
    side, channels = (8, 1) if case == "digits-level" else (32, 3)
    forward, _ = count_macs(case_network(case), channels, side, side)
    return forward if case == "measure" else 3 * forward


def _moved(split: Split, device: torch.device) -> Split:
    return Split(split.images.to(device), split.labels.to(device))


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# The other side


def _plain_rate(job: Job, dataloader_workers: int, threads: int) -> float:
    """Images a second of the plain loop, in a process of its own with all threads."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_plain_in_process, job, dataloader_workers, threads).result()


def _plain_in_process(job: Job, dataloader_workers: int, threads: int) -> float:
    torch.set_num_threads(threads)
    split, normalisation, views = case_images(job, torch.device("cpu"))
    batch = DIGITS_BATCH if job.case == "digits-level" else BATCH
    distilled_case = job.case == "student-distilled"
    setup = bench_plain.Setup(
        network=bench_plain.plain_copy(case_network(job.case)),
        teacher=bench_plain.plain_copy(case_network("teacher")) if distilled_case else None,
        images=split.images.numpy(),
        labels=split.labels.tolist(),
        mean=normalisation.mean,
        std=normalisation.std,
        augment=views.count > 1,
        batch=batch,
        workers=dataloader_workers,
        device=torch.device(job.device),
    )
    return bench_plain.measure_rate(setup) if job.case == "measure" else bench_plain.rate(setup)


def _better_worker_count(job: Job, threads: int) -> int:
    """0 or 2 DataLoader workers, whichever is faster here."""
    return max((0, 2), key=lambda count: _plain_rate(job, count, threads))


# Ceilings and printing


def _ceilings(device: torch.device) -> Ceilings:
    """The best of some runs of a large matrix product and a large copy, with all cores."""
    size = 1536 if device.type == "cpu" else 8192
    rates = {}
    for precision in ("fp32", "tf32", "bf16"):
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        rates[precision] = (
            2 * size**3 / _best_seconds(functools.partial(torch.matmul, a, b), device)
        )
    source = torch.randn(2**26 if device.type == "cpu" else 2**29, device=device)
    target = torch.empty_like(source)
    seconds = _best_seconds(lambda: target.copy_(source), device)
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(matmul_flops_per_second=rates, copy_bytes_per_second=moved / seconds)


def _best_seconds(action: Callable[[], Tensor], device: torch.device) -> float:
    seconds = []
    for _ in range(8):
        _synchronise(device)
        started = time.perf_counter()
        action()
        _synchronise(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(median=statistics.median(values), min=min(values), max=max(values))


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def result_line(result: CaseResult) -> str:
    """A case in one line, for progress."""
    return (
        f"{result.name} {result.precision}: {result.images_per_second.median:.0f} images/s, "
        f"{result.ratio.median:.2f} x the plain loop"
    )


def print_bench(result: BenchResult, console: Console) -> None:
    """Print the measurements as a table."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{result.device}, torch {result.versions['torch']}",
                  title_justify="left")  # fmt: skip
    for heading in ("case", "precision", "images/s", "plain loop fp32", "ratio", "of ceiling"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    for case in result.cases:
        table.add_row(
            case.name,
            case.precision,
            _spread_text(case.images_per_second, 0),
            _spread_text(case.plain_images_per_second, 0),
            _spread_text(case.ratio, 2),
            f"{100 * case.share_of_ceiling:.0f} %",
        )
    console.print(table)
    rates = result.ceilings.matmul_flops_per_second
    console.print(
        "median (lowest to highest). Ceilings, all cores: matrix product "
        + ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
        + f"; copy {result.ceilings.copy_bytes_per_second / 1e9:.1f} GB/s.\n"
        f"The distilled case looks its teacher up in a table; building that for its images takes "
        f"{result.table_seconds:.1f} s on one core, once for all levels, seeds and recipes."
    )


def _spread_text(spread: Spread, digits: int) -> str:
    return f"{spread.median:.{digits}f} ({spread.min:.{digits}f} to {spread.max:.{digits}f})"


def as_json(result: BenchResult) -> str:
    """The measurements as `bench --json` prints them."""
    return json.dumps(result.model_dump(mode="json"), indent=2)
