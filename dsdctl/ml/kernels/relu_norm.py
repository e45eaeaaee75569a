"""BatchNorm fused with its neighbours in training, where there are kernels for that.

On GPUs, and on CPUs with the compiled kernels, it is fused with a ReLU before it and 2x2
max-pooling after it, or with a sum and a ReLU after it. Unfused, each of them reads and writes all
maps, which takes longer than computing them. In eval mode, and if a module has hooks or the network
is traced, all modules are called one by one.

Shapes: B images, C channels, H x W pixels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dsdctl.ml import gpu
from dsdctl.ml.kernels import kernels
from dsdctl.ml.kernels.convolution import Conv3x3
from dsdctl.ml.kernels.observed import has_hooks, is_tracing


class FusedSequential(nn.Sequential):
    """nn.Sequential that fuses ReLU, BatchNorm2d and a MaxPool2d(2) after them in training; on a
    GPU also a lone BatchNorm2d, and the bias of a Conv3x3 with the ReLU after it."""

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        if not self.training or is_tracing():
            return super().forward(maps)  # type: ignore[no-any-return, no-untyped-call]
        layers = list(self)
        while layers:
            maps, used = _forward(layers, maps)
            del layers[:used]
        return maps


def norm_relu(
    norm: nn.BatchNorm2d, relu: nn.ReLU, maps: Tensor, added: Tensor | None = None
) -> Tensor:
    """relu(norm(maps) + added), or relu(norm(maps)); all are (B, C, H, W)."""
    alike = added is None or (added.dtype, added.shape) == (maps.dtype, maps.shape)
    if alike and not is_tracing() and _fits_gpu(maps, norm, relu):
        from dsdctl.ml.gpu.norm import Kind, normalize

        if added is not None:
            added = added.contiguous(memory_format=torch.channels_last)
        return normalize(maps, None, norm, Kind(relu_after=True), added)
    fits = alike and (added is None or kernels.supports(added))
    if fits and not is_tracing() and _fits(norm, relu, maps):
        out, mean, variance = _NormRelu.apply(  # type: ignore[no-untyped-call]
            maps, norm.weight, norm.bias, norm.eps, added
        )
        _update_statistics(norm, mean, variance, maps.numel() // maps.shape[1])
        return out  # type: ignore[no-any-return]
    out = norm(maps)
    return relu(out if added is None else out + added)  # type: ignore[no-any-return]


def _forward(layers: list[nn.Module], maps: Tensor) -> tuple[Tensor, int]:
    """Apply the first of `layers`, or the first few fused: the new maps, and how many layers."""
    if gpu.used(maps):
        return _forward_gpu(layers, maps)
    match layers:
        case [nn.ReLU() as relu, nn.BatchNorm2d() as norm, *rest] if _fits(norm, relu, maps):
            pooled = _pools(rest[:1], maps)
            return _relu_norm(maps, norm, pooled), 3 if pooled else 2
    return layers[0](maps), 1


def _forward_gpu(layers: list[nn.Module], maps: Tensor) -> tuple[Tensor, int]:
    from dsdctl.ml.gpu.norm import Kind, normalize

    match layers:
        case [Conv3x3() as conv, nn.ReLU() as relu, nn.BatchNorm2d() as norm, *rest] if not any(
            map(has_hooks, (conv, relu, norm))
        ):
            out = conv.without_bias(maps)
            if _fits_gpu(out, norm, relu):
                pooled = _pools(rest[:1], out)
                return normalize(out, conv.bias, norm, Kind(True, pool=pooled)), 3 + pooled
            return conv.with_bias(out), 1
        case [nn.BatchNorm2d() as norm, *_] if _fits_gpu(maps, norm):
            return normalize(maps, None, norm, Kind()), 1
    return layers[0](maps), 1


def _fits_gpu(maps: Tensor, norm: nn.BatchNorm2d, relu: nn.ReLU | None = None) -> bool:
    return (
        gpu.used(maps)
        and maps.dtype in (torch.float32, torch.bfloat16)
        and maps.is_contiguous(memory_format=torch.channels_last)
        and _trains(norm, maps)
        and not any(map(has_hooks, (norm, *([relu] if relu else []))))
    )


def _fits(norm: nn.BatchNorm2d, relu: nn.ReLU, maps: Tensor) -> bool:
    return (
        kernels.used("batch-norm")
        and kernels.supports(maps)
        and _trains(norm, maps)
        and not any(map(has_hooks, (norm, relu)))
    )


def _trains(norm: nn.BatchNorm2d, maps: Tensor) -> bool:
    """Whether `norm` normalizes `maps` by the batch's statistics and updates running ones."""
    return (
        maps.shape.numel() > maps.shape[1]  # of one value per channel BatchNorm has no variance
        and norm.training
        and norm.affine
        and norm.weight.dtype == torch.float32
        and norm.track_running_stats
        and norm.momentum is not None
    )


def _pools(layers: list[nn.Module], maps: Tensor) -> bool:
    """Whether `layers` is one 2x2 max-pooling without hooks, and `maps` have even sides."""
    height, width = maps.shape[2:]
    return height % 2 == width % 2 == 0 and any(
        isinstance(layer, nn.MaxPool2d)
        and (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == (2, 2, 0, 1)
        and not has_hooks(layer)
        for layer in layers
    )


def _relu_norm(maps: Tensor, norm: nn.BatchNorm2d, pooled: bool) -> Tensor:
    normalized, mean, variance = _ReluNorm.apply(  # type: ignore[no-untyped-call]
        maps, norm.weight, norm.bias, norm.eps, pooled
    )
    _update_statistics(norm, mean, variance, maps.numel() // maps.shape[1])
    return normalized  # type: ignore[no-any-return]


def _update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, pixels: int) -> None:
    """Update the running statistics from the batch's mean and biased variance, (C,) each, over
    B x H x W = `pixels` values."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean, norm.momentum)
    norm.running_var.lerp_(variance * (pixels / (pixels - 1)), norm.momentum)


class _ReluNorm(torch.autograd.Function):
    """BatchNorm of relu(maps), in training; then, if `pooled`, max-pooling."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float, pooled: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the new maps and, each (C,), the mean and the biased variance of relu(maps)."""
        batch, channels, height, width = maps.shape
        mean, variance, inverse = torch.empty(3, channels)
        size = (height // 2, width // 2) if pooled else (height, width)
        layout = torch.channels_last
        out = torch.empty(batch, channels, *size, dtype=maps.dtype, memory_format=layout)
        choice = torch.empty_like(out, dtype=torch.uint8) if pooled else None
        sizes = (batch * height, width, channels)
        results = (mean, variance, inverse, out, choice)
        kernels.call("batch-norm", "relu_norm_forward", maps, *sizes, weight, bias, eps, *results)
        ctx.save_for_backward(maps, weight, mean, inverse, choice)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, mean, inverse, choice = ctx.saved_tensors
        upstream = gradients[0].contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = maps.shape
        of_weight, of_bias = torch.empty(2, channels)
        of_maps = torch.empty_like(maps)
        sizes = (batch * height, width, channels)
        given = (weight, mean, inverse, choice)
        results = (of_weight, of_bias, of_maps)
        kernels.call("batch-norm", "relu_norm_backward", upstream, maps, *sizes, *given, *results)
        return of_maps, of_weight, of_bias, None, None


class _NormRelu(torch.autograd.Function):
    """relu(BatchNorm of maps + added), or without `added`, in training."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float, added: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the new maps and, each (C,), the mean and the biased variance of `maps`."""
        batch, channels, height, width = maps.shape
        mean, variance, inverse = torch.empty(3, channels)
        out = torch.empty_like(maps)
        sizes = (batch * height, width, channels)
        results = (mean, variance, inverse, out)
        kernels.call(
            "batch-norm", "norm_relu_forward", maps, added, *sizes, weight, bias, eps, *results
        )
        ctx.save_for_backward(maps, None if added is None else out, weight, bias, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, out, *given = ctx.saved_tensors
        upstream = gradients[0].contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = maps.shape
        of_weight, of_bias = torch.empty(2, channels)
        of_maps = torch.empty_like(maps)
        of_added = None if out is None else torch.empty_like(maps)
        sizes = (batch * height, width, channels)
        results = (of_weight, of_bias, of_added, of_maps)
        kernels.call(
            "batch-norm", "norm_relu_backward", upstream, out, maps, *sizes, *given, *results
        )
        return of_maps, of_weight, of_bias, None, of_added
