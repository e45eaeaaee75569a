"""What the machine itself reaches: a large matrix product and a large copy, all cores."""

import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dsdctl.bench.results import Ceilings
from dsdctl.ml.device import precision
from dsdctl.spec.fields import Precision

TRIALS = 8


def measure_ceilings(device: torch.device, precisions: Sequence[Precision]) -> Ceilings:
    """The best of some trials of each."""
    rates: dict[Precision, float] = {}
    for name in precisions:
        with torch.no_grad(), precision("tf32" if name == "tf32" else "fp32", device):
            rates[name] = max(
                operations / _best_seconds(action, device)
                for action, operations in _products(name, device)
            )
    numbers = 2**26 if device.type == "cpu" else 2**29
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    seconds = _best_seconds(lambda: target.copy_(source), device)
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(matmul_flops_per_second=rates, copy_bytes_per_second=moved / seconds)


def _products(name: Precision, device: torch.device) -> list[tuple[Callable[[], Tensor], int]]:
    """Two ways to a large matrix product, each with its FLOPs: as such, and as a 1x1 convolution.

    On a CPU they come from two libraries, and either may be the faster one by a factor of two.
    """
    size: Literal[1536, 8192] = 1536 if device.type == "cpu" else 8192
    dtype = torch.bfloat16 if name == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    images = a.view(size // 256, 16, 16, size).permute(0, 3, 1, 2)
    kernels = b[:, :, None, None].contiguous(memory_format=torch.channels_last)
    operations = 2 * size**3
    return [
        (lambda: torch.matmul(a, b), operations),
        (lambda: F.conv2d(images, kernels), operations),
    ]


def _best_seconds(action: Callable[[], Tensor], device: torch.device) -> float:
    seconds = []
    for _ in range(TRIALS):
        _synchronise(device)
        started = time.perf_counter()
        action()
        _synchronise(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
