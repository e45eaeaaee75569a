"""How fast a training could be on the device's measured ceilings."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dsdctl.bench.cases import BATCH, case_network
from dsdctl.bench.results import CaseName, Ceilings
from dsdctl.ml.macs import count_macs

BF16, FP32 = 2, 4
"""Bytes of a number."""

PASSES = 3
"""Forward each map is read and written once; backward twice: the gradients of what came out are
read and those of what came in written, and both maps are read for the weights' gradients."""

WEIGHT_TRAFFIC = 7
"""Numbers moved a weight and step: weight, gradient and momentum read and written, a mask read."""


def attainable(case: CaseName, ceilings: Ceilings) -> dict[str, Any]:
    """Images a second in bf16: what the larger of arithmetic and memory time of a step allows.

    Arithmetic: three forward passes, 2 FLOPs a multiply-accumulate. Memory: the fewest bytes, with
    all that is no convolution or Linear layer done on the way, in bf16; weights, gradients and the
    optimizer's state in fp32.
    """
    network = case_network(case)
    macs = count_macs(network, 3, 32, 32).total
    arithmetic = 6 * macs * BATCH / ceilings.matmul_flops_per_second["bf16"]
    maps = _numbers_of_maps(network) * PASSES * BF16 * BATCH
    weights = sum(parameter.numel() for parameter in network.parameters()) * WEIGHT_TRAFFIC * FP32
    memory = (maps + weights) / ceilings.copy_bytes_per_second
    return {
        "images_per_second": BATCH / max(arithmetic, memory),
        "arithmetic_us_per_step": arithmetic * 1e6,
        "memory_us_per_step": memory * 1e6,
        "bytes_per_step": maps + weights,
    }


@torch.no_grad()
def _numbers_of_maps(network: nn.Module) -> int:
    """What goes into and comes out of all convolutions and Linear layers, for one image."""
    numbers = 0

    def add(_module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal numbers
        numbers += inputs[0].numel() + output.numel()

    hook: Callable[..., None] = add
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(hook)
    network.eval()(torch.zeros(1, 3, 32, 32))
    return numbers
