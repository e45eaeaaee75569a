"""The 3x3 convolution, padded by one, that the paper's networks are made of."""

from typing import Any

import torch
from torch import Tensor, nn


class Conv3x3(nn.Conv2d):
    """nn.Conv2d with a 3x3 kernel and padding 1; on CPUs faster where maps are 2x2.

    There 20 of the 36 products of a kernel fall on the padding. What is left is one matrix product,
    from all inputs of an image to all its outputs, with 16 entries for each pair of channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, stride, padding=1, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        # Counting and exporting trace the network, and are to see the convolution that it is.
        small = maps.shape[2:] == (2, 2) and self.stride == (1, 1)
        traced = torch._C._get_tracing_state() or torch.compiler.is_compiling()
        if small and maps.device.type == "cpu" and not traced:
            return _convolve_2x2(maps, self.weight, self.bias)
        return super().forward(maps)


def _convolve_2x2(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C, 2, 2), (C', C, 3, 3), (C',) -> (B, C', 2, 2)."""
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else weight.dtype
    inputs = maps.permute(0, 2, 3, 1).flatten(1)
    matrix = _TapMatrix.apply(weight, dtype).t()  # type: ignore[no-untyped-call]
    outputs = inputs @ matrix if bias is None else torch.addmm(bias.repeat(4), inputs, matrix)
    return outputs.view(len(maps), 2, 2, len(weight)).permute(0, 3, 1, 2)


class _TapMatrix(torch.autograd.Function):
    """The matrix (4 C', 4 C) of the taps that are not on the padding; rows are outputs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.shape, ctx.dtype = weight.shape, weight.dtype
        taps = weight.to(dtype).permute(0, 2, 3, 1)
        return torch.cat([_valid(taps, y, x).flatten(1) for y in (0, 1) for x in (0, 1)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        out_channels, in_channels = ctx.shape[:2]
        blocks = gradients[0].view(2, 2, out_channels, 2, 2, in_channels)
        # In the weight's own type also under autocast: up to four parts are summed.
        taps = torch.zeros(out_channels, 3, 3, in_channels, dtype=ctx.dtype)
        for y in (0, 1):
            for x in (0, 1):
                _valid(taps, y, x).add_(blocks[y, x])
        return taps.permute(0, 3, 1, 2), None


def _valid(taps: Tensor, y: int, x: int) -> Tensor:
    """Of the taps (C', 3, 3, C), those that the output at (y, x) has within a 2x2 map."""
    return taps[:, 1 - y : 3 - y, 1 - x : 3 - x]
