"""Fused GPU kernels in Triton, which comes with torch's builds for CUDA.

A training step on small images is some hundred small kernels, and launching them takes as long as
running them: these fuse several into one. Sums are added in an order that follows from the shapes
alone, and nothing is chosen by timing, so that results do not depend on the GPU's load.
"""

import functools
import importlib.util

import torch
from torch import Tensor

from dsdctl.ml.kernels.choice import kernel_mode
from dsdctl.system.devices import KERNELS_VARIABLE


def used(tensor: Tensor) -> bool:
    """Whether these kernels are used for `tensor`. Raises InputError."""
    return used_on(tensor.device)


def used_on(device: torch.device) -> bool:
    """Whether these kernels are used on `device`. Raises InputError if $DSDCTL_KERNELS is invalid.

    For now only on request: each is compiled, and compared with torch in Triton's interpreter, but
    none has been measured on a GPU yet.
    """
    return device.type == "cuda" and kernel_mode() == "all" and installed()


@functools.cache
def installed() -> bool:
    """Whether Triton, which compiles them, is installed."""
    return importlib.util.find_spec("triton") is not None


def said() -> str:
    """Whether a process with a GPU uses these kernels, and why, in words. Raises InputError."""
    mode = kernel_mode()
    if not installed():
        return "not used, there is no Triton"
    if mode == "off":
        return f"not used, ${KERNELS_VARIABLE} is off"
    if mode != "all":
        return f"not used, no GPU has measured them yet; ${KERNELS_VARIABLE}=all uses them"
    return f"used, ${KERNELS_VARIABLE} is all; no GPU has measured them yet"


def in_use(device: torch.device) -> tuple[str, ...]:
    """What computes on `device` besides torch, for a level's environment. Raises InputError."""
    return ("triton",) if used_on(device) else ()
