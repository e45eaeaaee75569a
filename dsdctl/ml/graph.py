"""A training step replayed as one CUDA graph, since launching its kernels one by one takes longer
than running them."""

import functools
import logging
from collections.abc import Callable, Sequence

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
    """Record `function` on the current device, after it has run a few times on a side stream."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class GraphedStep:
    """A step that is recorded at its second full batch, and replayed from then on.

    The first replay is compared, bit for bit, with the step as it is. Where they differ, or where
    nothing can be recorded, training goes on without the recording and `refused` says why. Smaller
    batches are never replayed, nor is the first batch, in which the optimiser allocates its state.
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
        _say(self.refused)
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
def _say(refused: str) -> None:
    """Say it, once in a process."""
    logging.getLogger(__name__).warning("no CUDA graph: %s", refused)
