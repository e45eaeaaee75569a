"""Closed forms of what a network holds and pruning leaves, to check specs without torch."""

import itertools
from collections.abc import Sequence

from dsdctl.networks import MLP, Network, ResNet18, TorchvisionResNet, VGGLike, ViT
from dsdctl.pruning import Pruning


def layer_weights(
    network: Network, channels: int, height: int, width: int, classes: int
) -> list[int]:
    """Weights of each Conv2d and Linear layer (no biases), in the order of the network."""
    match network:
        case VGGLike():
            return _vgg_like_weights(network, channels, classes)
        case ResNet18():
            return _resnet_weights(3, (2, 2, 2, 2), False, channels, classes)
        case TorchvisionResNet(arch="resnet18-imagenet"):
            return _resnet_weights(7, (2, 2, 2, 2), False, channels, classes)
        case TorchvisionResNet():
            return _resnet_weights(7, (3, 4, 6, 3), True, channels, classes)
        case MLP():
            sizes = (channels * height * width, *network.hidden, classes)
            return [inputs * outputs for inputs, outputs in itertools.pairwise(sizes)]
        case ViT():
            dim, mlp = network.dim, network.mlp_dim
            block = [dim * 3 * dim, dim * dim, dim * mlp, mlp * dim]
            return [channels * network.patch**2 * dim, *(network.depth * block), dim * classes]


def smallest_side(network: Network) -> int:
    """The smallest image side, in pixels, that the network leaves anything of."""
    match network:
        case VGGLike():
            return int(2**network.depth)
        case ViT():
            return network.patch
        case _:
            return 1


def has_batchnorm(network: Network) -> bool:
    """Whether the network cannot be trained on a single image."""
    return not isinstance(network, MLP | ViT)


def kept_weights(dense: int, before: int, fraction: float | None, sparsity: float | None) -> int:
    """Of the `before` weights that are left of `dense`, how many a round keeps.

    n_k = n_{k-1} - round(fraction * n_{k-1}), or n_k = n_0 - round(sparsity * n_0) where the
    level's sparsity is given.
    """
    if sparsity is not None:
        return dense - round(sparsity * dense)
    assert fraction is not None
    return before - round(fraction * before)


def remaining_weights(layers: Sequence[int], pruning: Pruning) -> list[int]:
    """n_0 .. n_rounds, `layers` being the weights of each layer of the dense network.

    Each layer is rounded by itself where it is ranked by itself.
    """
    dense = list(layers) if pruning.scope == "layer" else [sum(layers)]
    left = dense
    counts = [sum(dense)]
    for level in range(1, pruning.rounds + 1):
        share = pruning.share(level)
        left = [kept_weights(*pair, *share) for pair in zip(dense, left, strict=True)]
        counts.append(sum(left))
    return counts


def _vgg_like_weights(network: VGGLike, channels: int, classes: int) -> list[int]:
    weights = []
    for block in range(network.depth):
        out_channels = network.width * 2**block
        weights += [9 * channels * out_channels, 9 * out_channels * out_channels]
        channels = out_channels
    return [*weights, channels * network.pool**2 * classes]


def _resnet_weights(
    stem: int, blocks: Sequence[int], bottleneck: bool, channels: int, classes: int
) -> list[int]:
    """`stem` is the side of the first kernel, `blocks` how many blocks each stage has."""
    weights = [stem**2 * channels * 64]
    channels = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        out_channels = 4 * width if bottleneck else width
        for _ in range(count):
            if bottleneck:
                weights += [channels * width, 9 * width * width, width * out_channels]
            else:
                weights += [9 * channels * width, 9 * width * width]
            if channels != out_channels:
                weights.append(channels * out_channels)
            channels = out_channels
    return [*weights, channels * classes]
