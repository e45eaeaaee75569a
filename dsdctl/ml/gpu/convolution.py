"""3x3 convolutions of maps with few channels, in bf16, padded by one, at stride 1.

cuDNN leaves most of a GPU idle on these, above all in the gradient of the weights.

Shapes: maps (B, C, H, W) and gradients (B, C', H, W), channels-last, are P = B H W rows; a weight
(C', C, 3, 3), channels-last, is C' rows of 9 C numbers.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW = 3
"""Input channels up to which a pixel's whole 3 x 3 patch is one row of a matrix product."""
PATCH = 32
"""Numbers in such a row: 9 x 3, padded with zeros to a power of two."""
MANY = 64
"""Channels, in or out, above which cuDNN is faster."""
PROGRAMS = 256
"""Approximate number of programs of a gradient: a constant, since it fixes the order of sums."""


def fits(maps: Tensor, weight: Tensor) -> bool:
    """Whether the gradient of `weight` is faster here; both are bf16 and channels-last."""
    out_channels, in_channels = weight.shape[:2]
    return (
        max(in_channels, out_channels) <= MANY
        and out_channels % 16 == 0
        and (in_channels <= FEW or in_channels % 16 == 0)
        and maps.is_contiguous(memory_format=torch.channels_last)
        and weight.is_contiguous(memory_format=torch.channels_last)
    )


def convolve(maps: Tensor, weight: Tensor) -> Tensor:
    """maps (B, C, H, W), weight (C', C, 3, 3) -> (B, C', H, W); all bf16, channels-last."""
    return _Convolution.apply(maps, weight)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(maps, weight)
        if weight.shape[1] <= FEW:
            return convolve_few(maps, weight)
        return F.conv2d(maps, weight, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        upstream = gradients[0].contiguous(memory_format=torch.channels_last)
        of_maps = None
        if ctx.needs_input_grad[0]:
            one = [1, 1]
            of_maps, _, _ = torch.ops.aten.convolution_backward(
                upstream, maps, weight, None, one, one, one, False, [0, 0], 1, [True, False, False]
            )
        return of_maps, weight_gradient(maps, upstream, weight)


def convolve_few(maps: Tensor, weight: Tensor) -> Tensor:
    """The convolution (B, C, H, W), (C', C, 3, 3) -> (B, C', H, W), with C at most FEW."""
    batch, channels, height, width = maps.shape
    out_channels = len(weight)
    size, layout = (batch, out_channels, height, width), torch.channels_last
    out = torch.empty(size, dtype=maps.dtype, device=maps.device, memory_format=layout)
    pixels = batch * height * width
    rows, columns = 256, triton.next_power_of_2(out_channels)
    _convolve_few[(triton.cdiv(pixels, rows),)](
        maps, weight, out, pixels, height, width, out_channels,
        CHANNELS=channels, PATCH=PATCH, ROWS=rows, OUT=columns, num_warps=8,
    )  # fmt: skip
    return out


def weight_gradient(maps: Tensor, upstream: Tensor, weight: Tensor) -> Tensor:
    """maps (B, C, H, W), upstream gradient (B, C', H, W) -> the gradient (C', C, 3, 3) of `weight`,
    with its dtype and layout."""
    batch, channels, height, width = maps.shape
    out_channels = len(weight)
    few = channels <= FEW
    outer = min(64, triton.next_power_of_2(out_channels))
    # The registers hold nine sums of outer x inner numbers.
    inner = PATCH if few else min(outer // 2, triton.next_power_of_2(channels))
    groups = (1 if few else triton.cdiv(channels, inner)) * triton.cdiv(out_channels, outer)
    pixels = batch * height * width
    rows = 128 if few else 64
    per_part = triton.cdiv(triton.cdiv(pixels, max(1, PROGRAMS // groups)), rows) * rows
    parts = triton.cdiv(pixels, per_part)
    sums = torch.empty(parts, weight.numel(), device=maps.device)
    sizes = (pixels, height, width)
    if few:
        _weight_gradient_few[(parts, triton.cdiv(out_channels, outer))](
            maps, upstream, sums, *sizes, out_channels, per_part,
            CHANNELS=channels, PATCH=PATCH, ROWS=rows, OUT=outer, num_warps=4,
        )  # fmt: skip
    else:
        grid = (parts, triton.cdiv(channels, inner), triton.cdiv(out_channels, outer))
        _weight_gradient[grid](
            maps, upstream, sums, *sizes, channels, out_channels, per_part,
            ROWS=rows, IN=inner, OUT=outer, num_warps=4 if outer == 32 else 8, num_stages=2,
        )  # fmt: skip
    gradient = torch.empty_like(weight)
    block = 128
    _add_parts[(triton.cdiv(weight.numel(), block),)](
        sums, gradient, weight.numel(), parts, PARTS=16, BLOCK=block, num_warps=4
    )
    return gradient


@triton.jit
def _patches(maps, rows, pixels, height, width, CHANNELS: tl.constexpr, PATCH: tl.constexpr):
    """What each pixel sees, (rows, PATCH): 3 x 3 neighbours x CHANNELS, zero outside."""
    number = tl.arange(0, PATCH)
    tap, channel = number // CHANNELS, number % CHANNELS
    down, right = tap // 3 - 1, tap % 3 - 1
    y = (rows // width % height)[:, None] + down[None, :]
    x = (rows % width)[:, None] + right[None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    inside = inside & (rows < pixels)[:, None] & (tap < 9)[None, :]
    source = rows.to(tl.int64)[:, None] + (down * width + right)[None, :]
    return tl.load(maps + source * CHANNELS + channel[None, :], mask=inside, other=0.0)


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def _convolve_few(
    maps, weight, out, pixels, height, width, out_channels,
    CHANNELS: tl.constexpr, PATCH: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    patches = _patches(maps, rows, pixels, height, width, CHANNELS, PATCH)
    number, channel = tl.arange(0, PATCH), tl.arange(0, OUT)
    used = (number < 9 * CHANNELS)[:, None] & (channel < out_channels)[None, :]
    offsets = channel[None, :] * 9 * CHANNELS + number[:, None]
    kernel = tl.load(weight + offsets, mask=used, other=0.0)
    result = tl.dot(patches, kernel)
    offsets = rows.to(tl.int64)[:, None] * out_channels + channel[None, :]
    inside = (rows < pixels)[:, None] & (channel < out_channels)[None, :]
    tl.store(out + offsets, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _load_upstream(upstream, rows, columns, pixels, channels):
    offsets = rows.to(tl.int64)[:, None] * channels + columns[None, :]
    inside = (rows < pixels)[:, None] & (columns < channels)[None, :]
    return tl.load(upstream + offsets, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["pixels", "height", "width", "per_part"])
def _weight_gradient_few(
    maps, upstream, sums, pixels, height, width, out_channels, per_part,
    CHANNELS: tl.constexpr, PATCH: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Each program adds up its part of the pixels."""
    columns = tl.program_id(1) * OUT + tl.arange(0, OUT)
    total = tl.zeros((PATCH, OUT), tl.float32)
    first = tl.program_id(0) * per_part
    for start in range(first, first + per_part, ROWS):
        rows = start + tl.arange(0, ROWS)
        patches = _patches(maps, rows, pixels, height, width, CHANNELS, PATCH)
        g = _load_upstream(upstream, rows, columns, pixels, out_channels)
        total = tl.dot(tl.trans(patches), g, total)
    number = tl.arange(0, PATCH)
    base = sums + tl.program_id(0).to(tl.int64) * out_channels * 9 * CHANNELS
    offsets = columns[None, :] * 9 * CHANNELS + number[:, None]
    used = (number < 9 * CHANNELS)[:, None] & (columns < out_channels)[None, :]
    tl.store(base + offsets, total, mask=used)


@triton.jit
def _tap(
    total, g, maps, rows, channel, pixels, height, width, channels,
    down: tl.constexpr, right: tl.constexpr,
):  # fmt: skip
    """Add what the neighbours at (down, right) give: g (OUT, rows) times maps (rows, IN)."""
    y, x = rows // width % height + down, rows % width + right
    inside = (rows < pixels) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    source = rows.to(tl.int64) + (down * width + right)
    mask = inside[:, None] & (channel < channels)[None, :]
    values = tl.load(maps + source[:, None] * channels + channel[None, :], mask=mask, other=0.0)
    return tl.dot(g, values, total)


@triton.jit
def _keep(base, total, tap: tl.constexpr, row, channel, out_channels, channels):
    offsets = (row[:, None] * 9 + tap) * channels + channel[None, :]
    mask = (row < out_channels)[:, None] & (channel < channels)[None, :]
    tl.store(base + offsets, total, mask=mask)


@triton.jit(do_not_specialize=["pixels", "height", "width", "per_part"])
def _weight_gradient(
    maps, upstream, sums, pixels, height, width, channels, out_channels, per_part,
    ROWS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Each program adds up its part of the pixels, for all nine taps at once: what one of them
    reads the others find in the cache."""
    channel = tl.program_id(1) * IN + tl.arange(0, IN)
    row = tl.program_id(2) * OUT + tl.arange(0, OUT)
    nw = tl.zeros((OUT, IN), tl.float32)
    n = tl.zeros((OUT, IN), tl.float32)
    ne = tl.zeros((OUT, IN), tl.float32)
    w = tl.zeros((OUT, IN), tl.float32)
    c = tl.zeros((OUT, IN), tl.float32)
    e = tl.zeros((OUT, IN), tl.float32)
    sw = tl.zeros((OUT, IN), tl.float32)
    s = tl.zeros((OUT, IN), tl.float32)
    se = tl.zeros((OUT, IN), tl.float32)
    first = tl.program_id(0) * per_part
    for start in range(first, first + per_part, ROWS):
        rows = start + tl.arange(0, ROWS)
        g = tl.trans(_load_upstream(upstream, rows, row, pixels, out_channels))
        nw = _tap(nw, g, maps, rows, channel, pixels, height, width, channels, -1, -1)
        n = _tap(n, g, maps, rows, channel, pixels, height, width, channels, -1, 0)
        ne = _tap(ne, g, maps, rows, channel, pixels, height, width, channels, -1, 1)
        w = _tap(w, g, maps, rows, channel, pixels, height, width, channels, 0, -1)
        c = _tap(c, g, maps, rows, channel, pixels, height, width, channels, 0, 0)
        e = _tap(e, g, maps, rows, channel, pixels, height, width, channels, 0, 1)
        sw = _tap(sw, g, maps, rows, channel, pixels, height, width, channels, 1, -1)
        s = _tap(s, g, maps, rows, channel, pixels, height, width, channels, 1, 0)
        se = _tap(se, g, maps, rows, channel, pixels, height, width, channels, 1, 1)
    base = sums + tl.program_id(0).to(tl.int64) * out_channels * 9 * channels
    _keep(base, nw, 0, row, channel, out_channels, channels)
    _keep(base, n, 1, row, channel, out_channels, channels)
    _keep(base, ne, 2, row, channel, out_channels, channels)
    _keep(base, w, 3, row, channel, out_channels, channels)
    _keep(base, c, 4, row, channel, out_channels, channels)
    _keep(base, e, 5, row, channel, out_channels, channels)
    _keep(base, sw, 6, row, channel, out_channels, channels)
    _keep(base, s, 7, row, channel, out_channels, channels)
    _keep(base, se, 8, row, channel, out_channels, channels)


@triton.jit(do_not_specialize=["count", "parts"])
def _add_parts(sums, gradient, count, parts, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """Add the parts up, always in the same order."""
    number = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((PARTS, BLOCK), tl.float32)
    for start in range(0, parts, PARTS):
        part = start + tl.arange(0, PARTS)
        inside = (part < parts)[:, None] & (number < count)[None, :]
        offsets = part.to(tl.int64)[:, None] * count + number[None, :]
        total += tl.load(sums + offsets, mask=inside, other=0.0)
    result = tl.sum(total, 0).to(gradient.dtype.element_ty)
    tl.store(gradient + number, result, mask=number < count)
