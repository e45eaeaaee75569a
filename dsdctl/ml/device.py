"""How a process computes: threads, precision, determinism, CUDA streams."""

import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CONFIGURING = threading.Lock()


def configure(device: torch.device, threads: int) -> None:
    """Set the number of threads, deterministic kernels, and denormals flushed to zero.

    Some of these settings are the thread's and some the process's, so that tasks that run
    concurrently in one process must ask for the same. Denormals appear as the gradients of a
    network that interpolates its labels vanish; they slow CPUs down and carry no information.
    """
    with _CONFIGURING:
        _configure(device, threads)


def _configure(device: torch.device, threads: int) -> None:
    _keep_freed_memory()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.use_deterministic_algorithms(True)
    # Deterministic mode also fills every new tensor, which takes a third of a small step; nothing
    # here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cuda":
        # cuBLAS is deterministic only with a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt, from its malloc.h."""


@functools.cache
def _keep_freed_memory() -> None:
    """Let glibc keep freed memory, for the next step to reuse.

    By default it returns large buffers to the system at once, and the next ones are mapped and
    cleared again: a third of the time of a measurement, up to a quarter of a small training step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # only glibc has it
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


class _ThreadState(threading.local):
    """A separate copy for each thread."""

    stream: torch.cuda.Stream | None = None


_this_thread = _ThreadState()


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Compute on a CUDA stream of this thread's own, so that kernels of several threads overlap.

    torch has a pool of 32 streams, handed out in turn: with more threads, two would share one.
    """
    if device.type != "cuda":
        yield
        return
    if _this_thread.stream is None:
        _this_thread.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(_this_thread.stream):
        yield


class _MatrixUnits:
    """Whether matrix units may round fp32 to tf32, a setting that torch has per process only.

    Threads that want the same setting compute concurrently. One that wants the other waits for
    them, and later ones queue behind it, whatever they want, so that none starves.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._left = threading.Condition()
        self._inside = 0  # threads that compute with the current setting
        self._tf32 = False

    @contextmanager
    def used(self, *, tf32: bool) -> Iterator[None]:
        """Compute with this setting. Must not be nested, since that can deadlock."""
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

    Blocks while another thread computes with tf32 and this one must not, or the other way round.
    """
    # Without the cache: it would keep the bf16 weights until the context ends, and a whole epoch
    # would be trained on those that it began with.
    autocast = torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=name == "bf16", cache_enabled=False
    )
    with _matrix_units.used(tf32=name == "tf32"), autocast:
        yield
