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
"""Records the kernels that a function launches, and returns a function that replays them."""

WARM_UPS = 3
"""Runs before a recording, in which libraries allocate their workspaces and choose algorithms."""


def capture_on(device: torch.device) -> Capture | None:
    """How steps are recorded on `device`; None if they are not."""
    return cuda_graph if device.type == "cuda" else None


def cuda_graph(function: Callable[[], None]) -> Callable[[], None]:
    """Record `function` on the current device, after WARM_UPS runs of it.

    Meanwhile other threads may compute on streams of their own, but must neither record nor
    synchronize the whole device. Raises RuntimeError if the function cannot be recorded.
    """
    current = torch.cuda.current_stream()
    stream = current
    if current == torch.cuda.default_stream():  # on which nothing can be recorded
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    recording = _Recording(torch.cuda.CUDAGraph())
    with _exclusive():
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
        current.wait_stream(stream)
        recording.record(function, stream)
    return recording


def empty_cache() -> None:
    """Release torch's cached GPU memory, but not during a recording, which would fail."""
    with _exclusive():
        torch.cuda.empty_cache()


class _Recording:
    """A CUDA graph, replayed by each call."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def record(self, function: Callable[[], None], stream: torch.cuda.Stream) -> None:
        # Thread-local: what other threads launch meanwhile is neither recorded nor an error.
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            function()

    def __call__(self) -> None:
        self._graph.replay()

    def __del__(self) -> None:
        _dropped.append(self._graph)
        del self._graph
        _free_dropped()


_lock = threading.Lock()
"""Held while a graph is recorded or freed: torch's bookkeeping of graphs is not thread-safe."""

_dropped: list[torch.cuda.CUDAGraph] = []
"""Graphs without an owner, to be freed as soon as the lock is free."""


@contextmanager
def _exclusive() -> Iterator[None]:
    try:
        with _lock:
            yield
    finally:
        _free_dropped()


def _free_dropped() -> None:
    """Free dropped graphs, or leave that to the thread that holds the lock.

    Waiting for the lock could deadlock: the garbage collector may drop a graph on the very thread
    that is recording, or on one that the recording waits for.
    """
    while _dropped and _lock.acquire(blocking=False):
        try:
            _dropped.clear()
        finally:
            _lock.release()


class GraphedStep:
    """A training step that is recorded at its second full batch and replayed from then on.

    The first replay must give the same values as the step run eagerly. If it does not, or if the
    step cannot be recorded, all steps run eagerly and `refused` says why. Smaller batches always
    do, and so does the first batch, in which the optimizer allocates its state.
    """

    def __init__(
        self,
        step: Step,
        state: Callable[[], Sequence[Tensor]],
        batch_size: int,
        capture: Capture,
    ):
        """`state` lists all tensors that `step` writes to and that outlive it; `batch_size` is that
        of a full batch."""
        self.refused = ""
        self._step = step
        self._state = state
        self._batch_size = batch_size
        self._capture = capture
        self._begun = False
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, indices: Tensor, views: Tensor) -> None:
        """Train on the batch of `indices` and `views`, int64 (B,)."""
        if self.refused or not self._begun or len(indices) != self._batch_size:
            self._step(indices, views)
            self._begun = True
        elif self._replay is None or self._inputs is None:
            self._record(indices, views)
        else:
            for recorded, given in zip(self._inputs, (indices, views), strict=True):
                recorded.copy_(given)
            self._replay()

    def _record(self, indices: Tensor, views: Tensor) -> None:
        before = self._snapshot()
        self._step(indices, views)
        expected = self._snapshot()
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

    def _snapshot(self) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in self._state()]

    def _restore(self, copies: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for tensor, copy in zip(self._state(), copies, strict=True):
                tensor.copy_(copy)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all values are equal, NaN to NaN: a step that diverges gives NaN in both."""
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


@functools.cache
def _notify(refused: str) -> None:
    """Log the reason, once per process."""
    logging.getLogger(__name__).warning("no CUDA graph: %s", refused)
