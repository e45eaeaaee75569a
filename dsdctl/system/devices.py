"""Where work is computed."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dsdctl.errors import InputError

Device = Literal["cpu", "cuda"]
DeviceWish = Literal["auto", "cpu", "cuda"]


def usable_cores() -> int:
    """How many cores this process may use; where the system does not say, how many there are."""
    if hasattr(os, "sched_getaffinity"):  # macOS has none
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve_device(wish: DeviceWish, sees_gpu: Callable[[], bool], lacking: str) -> Device:
    """Resolve `auto`. Raises InputError where CUDA is asked for and `lacking` says who has none."""
    if wish == "cpu":
        return "cpu"
    if sees_gpu():
        return "cuda"
    if wish == "cuda":
        raise InputError(f"--device: cuda, but {lacking} (allowed: auto, cpu)")
    return "cpu"


def has_gpu_driver() -> bool:
    """Whether torch could see a GPU at all: to ask torch itself takes seconds, to import it."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Path("/dev/kfd").exists()  # AMD's
    return True


def choose_device(wish: DeviceWish) -> Device:
    """Resolve `auto` on this machine. Raises InputError where CUDA is asked for and absent."""
    return resolve_device(wish, _torch_sees_gpu, "torch sees no GPU here")


def _torch_sees_gpu() -> bool:
    if not has_gpu_driver():
        return False
    import torch

    return torch.cuda.is_available()


def default_jobs(device: Device) -> int:
    """One a core on a CPU. One on a GPU: how many fit into its memory nobody knows beforehand."""
    return usable_cores() if device == "cpu" else 1


KERNELS_VARIABLE = "DSDCTL_KERNELS"
"""The variable that says which of our kernels a process uses."""
