"""The functions of kernels.cpp, where installing dsdctl could compile them."""

import ctypes
import functools
import hashlib
import logging
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.cpp")
LIBRARY = SOURCE.with_name("libkernels.so")
LANES = 16
"""The channels that are computed at once: maps have a multiple of that many."""

_DONE = 0
_SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None where there is none, or one of another source."""
    try:
        compiled = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    compiled.kernels_source.restype = ctypes.c_char_p
    sources = [SOURCE, *sorted(SOURCE.parent.glob("kernels_*.h"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()
    if compiled.kernels_source() != digest.encode():
        logging.getLogger(__name__).warning(
            "the compiled kernels are those of another version of %s and are not used; "
            "install dsdctl again to compile them",
            SOURCE.name,
        )
        return None
    return compiled


def at_hand() -> bool:
    """Whether this process, as it is, is to call them; they run on one thread."""
    return torch.get_num_threads() == 1 and library() is not None


def fit(maps: Tensor) -> bool:
    """Whether `maps` (B, C, H, W) are as the kernels take them."""
    return (
        maps.device.type == "cpu"
        and maps.dtype in _SUFFIXES
        and maps.shape[1] % LANES == 0
        and maps.is_contiguous(memory_format=torch.channels_last)
    )


@functools.cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether `weight_gradient` is there for maps of `dtype`: it needs 512-bit registers."""
    compiled = library()
    if compiled is None or dtype not in _SUFFIXES:
        return False
    return bool(getattr(compiled, f"multiplies_{_SUFFIXES[dtype]}")())


def call(name: str, maps: Tensor, *arguments: Tensor | int | float | None) -> None:
    """Call the function `name` for the dtype of `maps`, its first argument; tensors are dense.

    Raises MemoryError.
    """
    compiled = library()
    assert compiled is not None
    function = getattr(compiled, f"{name}_{_SUFFIXES[maps.dtype]}")
    if function(*(_as_c(argument) for argument in (maps, *arguments))) != _DONE:
        raise MemoryError(f"no memory left for {name}")


def _as_c(argument: Tensor | int | float | None) -> object:
    match argument:
        case Tensor():
            return ctypes.c_void_p(argument.data_ptr())
        case int():
            return ctypes.c_int64(argument)
        case float():
            return ctypes.c_double(argument)
        case None:
            return ctypes.c_void_p(None)
