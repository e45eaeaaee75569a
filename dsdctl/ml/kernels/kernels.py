"""The functions of kernels.cpp, if they could be compiled when dsdctl was installed."""

import ctypes
import functools
import hashlib
import logging
from pathlib import Path

import torch
from torch import Tensor

from dsdctl.ml.kernels.choice import Choice, Kernel, Mode, Processor, choose, kernel_mode

SOURCE = Path(__file__).with_name("kernels.cpp")
LIBRARY = SOURCE.with_name("libkernels.so")
LANES = 16
"""Channels computed at once: maps must have a multiple of this many."""

_SUCCESS = 0
_SUFFIXES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled library; None if there is none, or if it is of another version of the source."""
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
    compiled.kernels_processor.restype = ctypes.c_char_p
    return compiled


def processor() -> Processor | None:
    """This machine's processor, as the library detects it; None without the library."""
    compiled = library()
    if compiled is None:
        return None
    vendor, *features = compiled.kernels_processor().decode().splitlines()
    return Processor(vendor, frozenset(features))


def choices() -> dict[Kernel, Choice]:
    """Which kernels this process uses, and why. Raises InputError."""
    return _choices(kernel_mode())


@functools.cache
def _choices(mode: Mode) -> dict[Kernel, Choice]:
    return choose(processor(), mode)


def used(kernel: Kernel) -> bool:
    """Whether this process calls the kernel; only with one thread, which is all that they use."""
    return torch.get_num_threads() == 1 and choices()[kernel].instructions is not None


def in_use() -> tuple[str, ...]:
    """The kernels that this process calls, each with its instruction set."""
    return tuple(
        f"{kernel} {choice.instructions}" for kernel, choice in choices().items() if used(kernel)
    )


def supports(maps: Tensor) -> bool:
    """Whether the kernels take these maps (B, C, H, W), by device, dtype, channels and layout."""
    return (
        maps.device.type == "cpu"
        and maps.dtype in _SUFFIXES
        and maps.shape[1] % LANES == 0
        and maps.is_contiguous(memory_format=torch.channels_last)
    )


def call(
    kernel: Kernel, function: str, maps: Tensor, *arguments: Tensor | int | float | None
) -> None:
    """Call the variant of a kernel's `function` for the dtype of `maps`, its first argument.

    The function gets raw pointers: tensors must be dense, and of the dtypes and sizes that it
    expects. Raises MemoryError if its scratch memory cannot be allocated.
    """
    compiled, instructions = library(), choices()[kernel].instructions
    assert compiled is not None
    name = f"{function}_{_SUFFIXES[maps.dtype]}_{instructions}"
    if getattr(compiled, name)(*(_as_c(argument) for argument in (maps, *arguments))) != _SUCCESS:
        raise MemoryError(f"no memory left for {function}")


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
