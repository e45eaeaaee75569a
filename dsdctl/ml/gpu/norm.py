"""BatchNorm in training, fused with its neighbours: two kernels forward and two backward.

    z = relu(maps + conv_bias)  or  z = maps
    out = z normalized; then 2x2 max-pooled;  or  relu(z normalized + added)

A reduction is finished by the kernel after it: each of that kernel's programs adds up the partial
sums itself, all in the same order, which takes less time than launching one more kernel.

Shapes: maps (B, C, H, W), channels-last, are P = B H W rows of C numbers.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsdctl.ml.gpu.norm_kernels import (
    gradients_of_maps,
    normalize_maps,
    sums_of_gradients,
    sums_of_maps,
)

PARTS = 128
"""Upper limit on the partial sums over pixels: a constant, since it fixes the order of sums."""
PROGRAMS = 256
"""Approximate number of programs of a kernel: two per multiprocessor of a large GPU."""
TILE = 8192
"""Numbers that a program holds in its registers at once."""
WARPS = 8
_SUMS = 3


@dataclass(frozen=True)
class Kind:
    """What is fused with the normalization."""

    relu_before: bool = False
    relu_after: bool = False
    pool: bool = False


@dataclass(frozen=True)
class _Tiling:
    """How (rows, channels) are divided among programs."""

    rows: int
    columns: int
    parts: int
    per_part: int
    groups: int

    @classmethod
    def of(cls, count: int, channels: int) -> "_Tiling":
        columns = max(16, min(64, triton.next_power_of_2(channels)))
        groups = triton.cdiv(channels, columns)
        wanted = max(1, min(PARTS, PROGRAMS // groups))
        rows = min(TILE // columns, max(16, triton.next_power_of_2(triton.cdiv(count, wanted))))
        per_part = triton.cdiv(triton.cdiv(count, wanted), rows) * rows
        return cls(rows, columns, triton.cdiv(count, per_part), per_part, groups)

    def rows_at_once(self, pool: bool) -> int:
        """Rows of the output in the registers; each row of pooled maps takes four of the input."""
        return self.rows // 4 if pool and self.rows >= 64 else self.rows

    @property
    def grid(self) -> tuple[int, int]:
        return self.parts, self.groups


def normalize(
    maps: Tensor,
    conv_bias: Tensor | None,
    norm: torch.nn.BatchNorm2d,
    kind: Kind,
    added: Tensor | None = None,
) -> Tensor:
    """`norm` in training with what `kind` fuses with it; updates its running statistics.

    maps: bf16 or fp32 (B, C, H, W), channels-last; conv_bias: (C,), of the convolution before;
    added: like maps, added before the last ReLU. Returns (B, C, H, W), or (B, C, H / 2, W / 2) if
    pooled.
    """
    return _Normalize.apply(maps, conv_bias, norm.weight, norm.bias, added, norm, kind)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        conv_bias: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        added: Tensor | None,
        norm: torch.nn.BatchNorm2d,
        kind: Kind,
    ) -> Tensor:
        batch, channels, height, width = maps.shape
        pixels = batch * height * width
        device = maps.device
        out = torch.empty(
            (batch, channels, height // 2, width // 2) if kind.pool else maps.shape,
            dtype=maps.dtype,
            device=device,
            memory_format=torch.channels_last,
        )
        tiling = _Tiling.of(pixels, channels)
        sums = torch.empty(_SUMS, tiling.parts, channels, device=device)
        statistics = torch.empty(_SUMS, channels, device=device)
        sums_of_maps[tiling.grid](
            maps, conv_bias, sums, pixels, channels, tiling.per_part,
            RELU=kind.relu_before, BIASED=conv_bias is not None,
            ROWS=tiling.rows, COLUMNS=tiling.columns, num_warps=WARPS,
        )  # fmt: skip
        outs = _Tiling.of(out.numel() // channels, channels)
        normalize_maps[outs.grid](
            maps, conv_bias, added, sums, weight, bias,
            norm.running_mean, norm.running_var, norm.num_batches_tracked, statistics, out,
            out.numel() // channels, pixels, channels, outs.per_part, tiling.parts, width,
            norm.eps, norm.momentum,
            RELU=kind.relu_before, BIASED=conv_bias is not None, ADDED=added is not None,
            RELU_AFTER=kind.relu_after, POOL=kind.pool, PARTS=PARTS,
            ROWS=outs.rows_at_once(kind.pool),
            COLUMNS=outs.columns, num_warps=WARPS,
        )  # fmt: skip
        kept = out if added is not None else None
        ctx.save_for_backward(maps, conv_bias, weight, bias, statistics, kept)
        ctx.kind = kind
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, conv_bias, weight, bias, statistics, out = ctx.saved_tensors
        kind: Kind = ctx.kind
        upstream = gradients[0].contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = maps.shape
        pixels, rows = batch * height * width, upstream.numel() // channels
        tiling = _Tiling.of(rows, channels)
        of_maps = torch.empty_like(maps)
        of_added = None if out is None else torch.empty_like(upstream)
        sums = torch.empty(_SUMS, tiling.parts, channels, device=maps.device)
        small = torch.empty(_SUMS, channels, device=maps.device)
        flags: dict[str, Any] = {
            "RELU": kind.relu_before, "BIASED": conv_bias is not None,
            "ADDED": out is not None, "RELU_AFTER": kind.relu_after, "POOL": kind.pool,
            "ROWS": tiling.rows_at_once(kind.pool),
            "COLUMNS": tiling.columns, "num_warps": WARPS,
        }  # fmt: skip
        given = (upstream, maps, conv_bias, out, weight, bias, statistics)
        sums_of_gradients[tiling.grid](
            *given, sums, rows, channels, tiling.per_part, width, **flags
        )
        gradients_of_maps[tiling.grid](
            *given, sums, small, of_maps, of_added,
            rows, pixels, channels, tiling.per_part, tiling.parts, width, PARTS=PARTS, **flags
        )  # fmt: skip
        of_bias, of_weight, of_conv_bias = small
        of_conv_bias = None if conv_bias is None else of_conv_bias.to(conv_bias.dtype)
        return of_maps, of_conv_bias, of_weight, of_bias, of_added, None, None
