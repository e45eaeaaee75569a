"""Which compiled kernels a process uses: a function of the processor and of $DSDCTL_KERNELS alone.

Nothing is timed, so that the same machine always computes the same bytes. The measurements behind
these rules are in docs/benchmarks.md. Nothing here imports torch.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from dsdctl.errors import InputError
from dsdctl.system.devices import KERNELS_VARIABLE

Kernel = Literal["batch-norm", "weight-gradient-fp32", "weight-gradient-bf16"]
"""BatchNorm fused with its ReLU, pooling or sum; the weight gradient of a 3x3 convolution."""

Mode = Literal["auto", "all", "avx2", "off"]
"""`auto`: where they are faster. `all`: wherever the processor can run them, for benchmarks.
`avx2`: as on a processor without AVX-512. `off`: none."""

Instructions = Literal["avx512", "avx2", "generic"]
"""The instruction sets that kernels are compiled for; `generic` is for all but x86-64."""


@dataclass(frozen=True)
class Processor:
    """The vendor string of the processor, and the features that kernels_processor.h detects."""

    vendor: str
    features: frozenset[str]


@dataclass(frozen=True)
class Choice:
    """The instruction set that a kernel is used with, None if it is not used; and why."""

    instructions: Instructions | None
    reason: str

    def __str__(self) -> str:
        use = f"used ({self.instructions})" if self.instructions else "not used"
        return f"{use}, {self.reason}"


def kernel_mode(environment: Mapping[str, str] = os.environ) -> Mode:
    """The mode in $DSDCTL_KERNELS, by default `auto`. Raises InputError if it is unknown."""
    value = environment.get(KERNELS_VARIABLE) or "auto"
    for mode in get_args(Mode):
        if value == mode:
            return mode  # type: ignore[no-any-return]
    raise InputError(f"${KERNELS_VARIABLE}: {value!r} (allowed: {', '.join(get_args(Mode))})")


def choose(processor: Processor | None, mode: Mode) -> dict[Kernel, Choice]:
    """Which kernels are used, and why; `processor` is None if they are not compiled."""
    kernels: tuple[Kernel, ...] = get_args(Kernel)
    if mode == "off":
        return dict.fromkeys(kernels, Choice(None, f"${KERNELS_VARIABLE} is off"))
    if processor is None:
        return dict.fromkeys(kernels, Choice(None, "not compiled"))
    if mode == "avx2":
        processor = replace(processor, features=processor.features & {"avx2"})
    forced = mode == "all"
    return {
        "batch-norm": _batch_norm(processor),
        "weight-gradient-fp32": _weight_gradient(processor, "avx512", forced),
        "weight-gradient-bf16": _weight_gradient(processor, "avx512-bf16", forced),
    }


def _batch_norm(processor: Processor) -> Choice:
    """Fewer passes over memory pay everywhere."""
    targets: tuple[Instructions, ...] = get_args(Instructions)
    for instructions in targets:
        if instructions in processor.features:
            return Choice(instructions, "fewer passes over memory")
    return Choice(None, "needs avx2")


def _weight_gradient(processor: Processor, needed: str, forced: bool) -> Choice:
    """oneDNN's is slower only on AMD's AVX-512, and nothing beats it where it can use AMX."""
    if needed not in processor.features:
        return Choice(None, f"needs {needed}")
    if forced:
        return Choice("avx512", f"${KERNELS_VARIABLE} is all")
    if processor.vendor != "AuthenticAMD":
        return Choice(None, f"oneDNN's is no slower on processors of {processor.vendor}")
    if needed == "avx512-bf16" and "amx-bf16" in processor.features:
        return Choice(None, "oneDNN's uses AMX")
    return Choice("avx512", "faster than oneDNN's on AMD's processors")
