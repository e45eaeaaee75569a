"""How a process computes: threads, precision, determinism."""

import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CONFIGURING = threading.Lock()


def configure(device: torch.device, threads: int) -> None:
    """Set what holds for this thread, and for the whole process: threads, deterministic kernels,
    no denormals. Tasks that run beside each other set the same.

    Denormals appear when the gradients of a network that fits its labels fade; they are flushed
    because they cost time on CPUs and say nothing.
    """
    with _CONFIGURING:
        _configure(device, threads)


def _configure(device: torch.device, threads: int) -> None:
    _keep_freed_memory()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    # It would also fill every new tensor, which takes a third of a small step; nothing here
    # reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        # Without it matrix products on a GPU have no deterministic version.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt, from its malloc.h."""


@functools.cache
def _keep_freed_memory() -> None:
    """Let glibc keep what is freed, for the next step to use again.

    It returns large buffers to the system at once and has them mapped and cleared anew, which took
    a third of a measurement and up to a quarter of a small training step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


class _OfThread(threading.local):
    """What each thread has of its own."""

    stream: torch.cuda.Stream | None = None


_own = _OfThread()


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Compute on a stream that is this thread's alone, so that a GPU works for all threads at once.

    torch has 32 streams, which it hands out in turn: more threads than that must not ask for one.
    """
    if device.type != "cuda":
        yield
        return
    if _own.stream is None:
        _own.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(_own.stream):
        yield


class _MatrixUnits:
    """Whether matrix units may round fp32 to tf32, which torch knows for the whole process only.

    Threads that want the same compute at once; one that wants the other waits for them, and those
    that come after it wait for it, so that each gets its turn.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._left = threading.Condition()
        self._inside = 0
        self._tf32 = False

    @contextmanager
    def used(self, *, tf32: bool) -> Iterator[None]:
        """Compute with this setting; not to be nested."""
        with self._turn, self._left:
            self._left.wait_for(lambda: self._inside == 0 or self._tf32 == tf32)
            if self._inside == 0:
                self._tf32 = tf32
                torch.set_float32_matmul_precision("high" if tf32 else "highest")
                torch.backends.cudnn.allow_tf32 = tf32
            self._inside += 1
        try:
            yield
        finally:
            with self._left:
                self._inside -= 1
                self._left.notify_all()


_matrix_units = _MatrixUnits()


@contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Compute in `fp32`, `tf32` (matrix units' mode on GPUs) or `bf16` (autocast, fp32 weights).

    Waits while another thread computes in tf32 and this one is not to, or the other way round.
    """
    # Autocast would keep its bf16 copies of the weights until the context ends, and so train on the
    # weights that an epoch began with.
    autocast = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=name == "bf16", cache_enabled=False
    )
    with _matrix_units.used(tf32=name == "tf32"), autocast:
        yield
