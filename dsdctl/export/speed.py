"""How long the exported networks take, measured on this machine: whole against compacted."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dsdctl.export.as_onnx import session_of

BATCHES = (1, 64)

THREADS = 1
"""More would tell more of what else the machine does."""

RUNS, SECONDS = 200, 1.0
"""How often a batch is run at most, and how long at most; three times at least."""

SLOWER = 1.05
"""From which ratio on a network counts as slower than the other."""


@dataclass(frozen=True)
class Spread:
    """Milliseconds a batch: the median, and between which the middle 80 % lie."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ms ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Latency:
    """A batch through both networks, in turns. `compact` is None where it is the same network."""

    runtime: str
    batch: int
    whole: Spread
    compact: Spread | None

    @property
    def ratio(self) -> float | None:
        """How many times as fast the compacted network is."""
        return None if self.compact is None else self.whole.median / self.compact.median

    @property
    def is_slower(self) -> bool:
        return self.ratio is not None and self.ratio * SLOWER < 1

    @property
    def line(self) -> str:
        """All of it in one line."""
        line = f"{self.runtime}, batch {self.batch}: whole {self.whole}"
        if self.compact is None:
            return line
        return f"{line}, compacted {self.compact}: {self.ratio:.2f} x as fast"


Run = Callable[[], object]


def latencies(
    networks: Sequence[nn.Module], models: Sequence[bytes], images: Tensor
) -> list[Latency]:
    """Time the whole network and, if there is one, the compacted one on `images`: in torch, and
    as ONNX `models`, if there are any."""
    found = []
    with _threads(THREADS):
        sessions = [session_of(model, THREADS) for model in models]
        for batch in BATCHES:
            part = _repeated(images, batch)
            torchs = [partial(_without_gradients, network, part) for network in networks]
            inputs = {"images": part.numpy()}
            onnxs = [partial(session.run, ["logits"], inputs) for session in sessions]
            found += [_latency("torch", batch, torchs)]
            found += [_latency("onnxruntime", batch, onnxs)] if onnxs else []
    return found


def _latency(runtime: str, batch: int, runs: Sequence[Run]) -> Latency:
    whole, *compact = _timed(runs)
    return Latency(runtime, batch, whole, compact[0] if compact else None)


def slower_lines(measured: Sequence[Latency]) -> list[str]:
    """Where the compacted network is the slower one, in a line each."""
    return [
        f"compacted is SLOWER than whole with {one.runtime} at batch {one.batch} on this machine: "
        f"{one.ratio:.2f} x as fast"
        for one in measured
        if one.is_slower
    ]


@torch.inference_mode()
def _without_gradients(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images)
    return logits


def _repeated(images: Tensor, batch: int) -> Tensor:
    """So many images, the same ones again where there are fewer."""
    return images[torch.arange(batch) % len(images)].contiguous()


def _timed(runs: Sequence[Run]) -> list[Spread]:
    """Run all in turns, so that what else the machine does meets them alike."""
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    began = time.perf_counter()
    for count in range(RUNS):
        if count >= 3 and time.perf_counter() - began > SECONDS * len(runs):
            break
        for run, taken in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return [_spread([1000 * value for value in taken]) for taken in seconds]


def _spread(values: list[float]) -> Spread:
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return Spread(statistics.median(values), deciles[0], deciles[-1])


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
