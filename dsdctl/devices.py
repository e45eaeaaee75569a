"""Where work is computed."""

from collections.abc import Callable
from typing import Literal

from dsdctl.errors import InputError

Device = Literal["cpu", "cuda"]
DeviceWish = Literal["auto", "cpu", "cuda"]


def resolve_device(wish: DeviceWish, sees_gpu: Callable[[], bool], lacking: str) -> Device:
    """Resolve `auto`. Raises InputError where CUDA is asked for and `lacking` says who has none."""
    if wish == "cpu":
        return "cpu"
    if sees_gpu():
        return "cuda"
    if wish == "cuda":
        raise InputError(f"--device: cuda, but {lacking} (allowed: auto, cpu)")
    return "cpu"
