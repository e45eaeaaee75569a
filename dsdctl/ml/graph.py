"""A training step replayed as one CUDA graph, since launching its kernels one by one takes longer
than running them."""

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], None]
"""Trains on the batch of (indices, views), both int64 (B,), in place."""

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Records what a function does to memory, and returns what does it again."""

WARM_UPS = 3
"""Runs before a recording, in which libraries set up what they keep."""


def capture_on(device: torch.device) -> Capture | None:
    """How steps are recorded on `device`; None where they are not."""
    return cuda_graph if device.type == "cuda" else None


def cuda_graph(function: Callable[[], None]) -> Callable[[], None]:
    """Record `function` on the current device, after it has run a few times.

    Meanwhile other threads may compute on streams of their own, but neither record nor wait for the
    whole device.
    """
    current = torch.cuda.current_stream()
    stream = current
    if current == torch.cuda.default_stream():  # on which nothing can be recorded
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    recording = _Recording(torch.cuda.CUDAGraph())
    with _alone():
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
        current.wait_stream(stream)
        recording.record(function, stream)
    return recording


def empty_cache() -> None:
    """Give back the GPU memory that torch keeps for later, which no recording would survive."""
    with _alone():
        torch.cuda.empty_cache()


class _Recording:
    """What a function does to memory, done again by each call."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def record(self, function: Callable[[], None], stream: torch.cuda.Stream) -> None:
        # What other threads do meanwhile is neither part of it nor an error.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            function()

    def __call__(self) -> None:
        self._graph.replay()

    def __del__(self) -> None:
        _dropped.append(self._graph)
        del self._graph
        _free_dropped()


_lock = threading.Lock()
"""Held while a graph is recorded or freed: torch keeps books on all of them without a lock."""

_dropped: list[torch.cuda.CUDAGraph] = []
"""Graphs that nobody needs any more, while they wait for the lock."""


@contextmanager
def _alone() -> Iterator[None]:
    try:
        with _lock:
            yield
    finally:
        _free_dropped()


def _free_dropped() -> None:
    """Free dropped graphs, or leave that to who holds the lock.

    Waiting for the lock could be for ever: the garbage collector may drop a graph on the thread
    that records, or on one that the recording waits for.
    """
    while _dropped and _lock.acquire(blocking=False):
        try:
            _dropped.clear()
        finally:
            _lock.release()


class GraphedStep:
    """A step that is recorded at its second full batch, and replayed from then on.

    The first replay is compared, bit for bit, with the step as it is. Where they differ, or where
    nothing can be recorded, training goes on without the recording and `refused` says why. Smaller
    batches are never replayed, nor is the first batch, in which the optimizer allocates its state.
    """

    def __init__(
        self,
        step: Step,
        state: Callable[[], Sequence[Tensor]],
        batch_size: int,
        capture: Capture,
    ):
        """`state` lists all tensors that `step` writes to and that outlive it."""
        self.refused = ""
        self._step = step
        self._state = state
        self._batch_size = batch_size
        self._capture = capture
        self._begun = False
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, indices: Tensor, views: Tensor) -> None:
        """Train on one batch."""
        if self.refused or not self._begun or len(indices) != self._batch_size:
            self._step(indices, views)
            self._begun = True
        elif self._replay is None or self._inputs is None:
            self._record(indices, views)
        else:
            for own, given in zip(self._inputs, (indices, views), strict=True):
                own.copy_(given)
            self._replay()

    def _record(self, indices: Tensor, views: Tensor) -> None:
        before = self._copy()
        self._step(indices, views)
        expected = self._copy()
        inputs = (indices.clone(), views.clone())
        try:
            replay = self._capture(functools.partial(self._step, *inputs))
            self._restore(before)
            replay()
        except RuntimeError as error:
            self.refused = f"the step cannot be recorded: {error}"
        else:
            if all(map(_same, self._state(), expected)):
                self._inputs, self._replay = inputs, replay
                return
            self.refused = "the recorded step gives other results"
        _notify(self.refused)
        self._restore(expected)

    def _copy(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._state()]

    def _restore(self, copies: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for tensor, copy in zip(self._state(), copies, strict=True):
                tensor.copy_(copy)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all values are equal; a step that diverges gives NaN, recorded or not."""
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


@functools.cache
def _notify(refused: str) -> None:
    """Say it, once in a process."""
    logging.getLogger(__name__).warning("no CUDA graph: %s", refused)
