"""The 3x3 convolution, padded by one, of which the paper's networks are built."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dsdctl.ml import gpu
from dsdctl.ml.kernels import kernels
from dsdctl.ml.kernels.choice import Kernel
from dsdctl.ml.kernels.observed import is_tracing

KERNELS: dict[torch.dtype, Kernel] = {
    torch.float32: "weight-gradient-fp32",
    torch.bfloat16: "weight-gradient-bf16",
}

CACHED_WEIGHTS = 2**17
"""Largest C C' for which the compiled gradient is faster: its sums stay in a cache."""


class Conv3x3(nn.Conv2d):
    """nn.Conv2d with a 3x3 kernel and padding 1, faster in training.

    On 2x2 maps, 20 of the 36 products of a kernel fall on the padding. On a CPU the other 16 are
    computed as one matrix product from all inputs of an image to all its outputs. Larger maps take
    the gradient of the weights from a compiled kernel, where there is one.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, stride, padding=1, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        # MAC counting and export trace the network, and must see an ordinary convolution.
        if maps.device.type == "cpu" and self.stride == (1, 1) and not is_tracing():
            if maps.shape[2:] == (2, 2):
                return _convolve_2x2(maps, self.weight, self.bias)
            dtype = _autocast(maps)
            if self._has_kernel(maps, dtype):
                return _Convolution3x3.apply(maps.to(dtype), self.weight, self.bias)  # type: ignore[no-untyped-call, no-any-return]
        if gpu.used(maps) and not is_tracing():
            return self.with_bias(self.without_bias(maps))
        return super().forward(maps)

    def with_bias(self, out: Tensor) -> Tensor:
        """Add the bias, if there is one, to the result of `without_bias`, (B, C', H', W')."""
        return out if self.bias is None else out + self.bias.to(out.dtype)[:, None, None]

    def without_bias(self, maps: Tensor) -> Tensor:
        """The convolution without its bias, on a GPU: (B, C, H, W) -> (B, C', H', W')."""
        dtype = _autocast(maps)
        learns = torch.is_grad_enabled() and self.weight.requires_grad
        if dtype == torch.bfloat16 and self.stride == (1, 1) and learns:
            from dsdctl.ml.gpu import convolution

            cast, weight = maps.to(dtype), self.weight.to(dtype)
            if convolution.fits(cast, weight):
                return convolution.convolve(cast, weight)
        return F.conv2d(maps, self.weight, None, self.stride, padding=1)

    def _has_kernel(self, maps: Tensor, dtype: torch.dtype) -> bool:
        return (
            torch.is_grad_enabled()
            and self.weight.requires_grad
            and self.weight.dtype == torch.float32
            and self.weight.is_contiguous(memory_format=torch.channels_last)
            and maps.is_contiguous(memory_format=torch.channels_last)
            and self.out_channels % kernels.LANES == 0
            and self.in_channels * self.out_channels <= CACHED_WEIGHTS
            and dtype in KERNELS
            and kernels.used(KERNELS[dtype])
        )


def _autocast(tensor: Tensor) -> torch.dtype:
    """The dtype in which a convolution with `tensor` is computed."""
    kind = tensor.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensor.dtype


class _Convolution3x3(torch.autograd.Function):
    """torch's convolution (B, C, H, W), (C', C, 3, 3), (C',) -> (B, C', H, W), with a compiled
    weight gradient: oneDNN's has half the throughput of its forward pass."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        cast = weight.to(maps.dtype)
        ctx.save_for_backward(maps, cast)
        ctx.biased = bias is not None
        return F.conv2d(maps, cast, None if bias is None else bias.to(maps.dtype), padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        maps, weight = ctx.saved_tensors
        upstream = gradients[0].contiguous(memory_format=torch.channels_last)
        of_maps = _gradient_of_maps(upstream, maps, weight) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight, dtype=torch.float32)
        of_bias = torch.empty(len(weight)) if ctx.biased else None
        batch, in_channels, height, width = maps.shape
        sizes = (batch, height, width, in_channels, len(weight))
        kernel, results = KERNELS[maps.dtype], (of_weight, of_bias)
        kernels.call(kernel, "weight_gradient", maps, upstream, *sizes, *results)
        return of_maps, of_weight, of_bias


def _gradient_of_maps(upstream: Tensor, maps: Tensor, weight: Tensor) -> Tensor:
    # torch.nn.grad.conv2d_input does the same, but copies the maps, which are not read.
    once, all_three = [1, 1], (upstream, maps, weight)
    gradients = torch.ops.aten.convolution_backward(
        *all_three, None, once, once, once, False, [0, 0], 1, [True, False, False]
    )
    return gradients[0]  # type: ignore[no-any-return]


def _convolve_2x2(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(B, C, 2, 2), (C', C, 3, 3), (C',) -> (B, C', 2, 2)."""
    inputs = maps.permute(0, 2, 3, 1).to(_autocast(weight))
    outputs = _Convolution2x2.apply(inputs, weight, bias)  # type: ignore[no-untyped-call]
    return outputs.permute(0, 3, 1, 2)  # type: ignore[no-any-return]


class _Convolution2x2(torch.autograd.Function):
    """(B, 2, 2, C), (C', C, 3, 3), (C',) -> (B, 2, 2, C'), in the dtype of the inputs."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows = _tap_matrix(weight, inputs.dtype)
        ctx.save_for_backward(inputs, rows)
        ctx.weight_dtype, ctx.bias_dtype = weight.dtype, None if bias is None else bias.dtype
        offsets = None if bias is None else bias.to(inputs.dtype).repeat(4)
        return _linear(inputs.flatten(1), rows, offsets).view(len(inputs), 2, 2, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        inputs, rows = ctx.saved_tensors
        upstream = gradients[0].contiguous()
        of_inputs = _linear(upstream.flatten(1), rows.t()).view_as(inputs)
        channels = upstream.shape[3], inputs.shape[3]
        of_weight = inputs.new_empty(channels[0], 3, 3, channels[1], dtype=ctx.weight_dtype)
        for y in range(3):
            for x in range(3):
                of_weight[:, y, x] = _tap_gradient(upstream, inputs, y, x)
        of_bias = ctx.bias_dtype and upstream.sum((0, 1, 2), dtype=ctx.bias_dtype)
        return of_inputs, of_weight.permute(0, 3, 1, 2), of_bias


def _tap_matrix(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The taps that do not fall on the padding, as a matrix (4 C', 4 C) from inputs to outputs."""
    out_channels, in_channels = weight.shape[:2]
    blocks = weight.new_empty(2, 2, out_channels, 2, 2, in_channels, dtype=dtype)
    taps = weight.permute(0, 2, 3, 1)
    for y in (0, 1):
        for x in (0, 1):
            blocks[y, x] = taps[:, 1 - y : 3 - y, 1 - x : 3 - x]
    return blocks.view(4 * out_channels, 4 * in_channels)


def _tap_gradient(upstream: Tensor, inputs: Tensor, y: int, x: int) -> Tensor:
    """The gradient (C', C) of tap (y, x), summed over the pairs of pixels that it connects.

    upstream: (B, 2, 2, C'); inputs: (B, 2, 2, C). Tap (1, 1) connects each pixel to itself, tap
    (0, 1) each output of the lower row to the input above it.
    """
    (to_y, from_y), (to_x, from_x) = _connected(y), _connected(x)
    to = upstream[:, to_y, to_x].reshape(-1, upstream.shape[3]).contiguous()
    origin = inputs[:, from_y, from_x].reshape(-1, inputs.shape[3]).contiguous()
    return _linear(to.t(), origin.t())


def _connected(tap: int) -> tuple[slice, slice]:
    """Along one side of a 2x2 map: the outputs for which a tap has inputs, and those inputs."""
    shift = tap - 1
    return slice(max(0, -shift), min(2, 2 - shift)), slice(max(0, shift), min(2, 2 + shift))


def _linear(inputs: Tensor, rows: Tensor, bias: Tensor | None = None) -> Tensor:
    """(M, K), (N, K), (N,) -> (M, N)."""
    if inputs.dtype == torch.float32 and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        # By oneDNN, as torch.compile does for linear layers: the BLAS in torch's wheels multiplies
        # fp32 matrices at half the speed on AMD's processors.
        return torch.ops.mkldnn._linear_pointwise(inputs, rows, bias, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(inputs, rows, bias)
