"""How a process computes: threads, precision, determinism."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def configure(device: torch.device, threads: int) -> None:
    """Set what holds for the whole process: threads, deterministic kernels, no denormals.

    Denormals appear when the gradients of a network that fits its labels fade; they are flushed
    because they cost time on CPUs and say nothing.
    """
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


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed, for the next step to use again.

    It returns large buffers to the system at once and has them mapped and cleared anew, which took
    a third of a measurement and up to a quarter of a small training step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have none
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def precision(name: str, device: torch.device) -> Iterator[None]:
    """Compute in `fp32`, `tf32` (matrix units' mode on GPUs) or `bf16` (autocast, fp32 weights)."""
    # Autocast would keep its bf16 copies of the weights until the context ends, and so train on the
    # weights that an epoch began with.
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    with torch.autocast(
        device.type, dtype=torch.bfloat16, enabled=name == "bf16", cache_enabled=False
    ):
        yield
