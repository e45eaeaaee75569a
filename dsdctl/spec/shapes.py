"""Closed forms of what a network holds and pruning leaves, to check specs without torch."""

import functools
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from dsdctl.spec.network import (
    MLP,
    VGG16,
    BuiltIn,
    Network,
    ResNet18,
    TorchvisionResNet,
    VGGLike,
    ViT,
)
from dsdctl.spec.pruning import Pruning

VGG16_BLOCKS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))
"""Convolutions of each block of VGG-16, and its channels by those of the first."""

FIRST, LAST = "first", "last"
"""Words for a layer that `pruning.ignore` takes beside names."""


def layer_weights(
    network: BuiltIn, channels: int, height: int, width: int, classes: int
) -> dict[str, int]:
    """Weights of each Conv2d and Linear layer (no biases) by its module's name, in the order of
    the network."""
    match network:
        case VGGLike():
            return _vgg_like_weights(network, channels, classes)
        case VGG16():
            return _vgg16_weights(network, channels, classes)
        case ResNet18():
            return _resnet18_weights(channels, classes)
        case TorchvisionResNet():
            return _torchvision_resnet_weights(network, channels, classes)
        case MLP():
            return _mlp_weights(network, channels * height * width, classes)
        case ViT():
            return _vit_weights(network, channels, classes)


def ignored_layers(layers: Iterable[str], ignore: Collection[str]) -> tuple[str, ...]:
    """Of the `layers` of a network those that `ignore` names, itself or as `first` or `last`."""
    names = list(layers)
    words = {FIRST: names[0], LAST: names[-1]}
    chosen = {words.get(name, name) for name in ignore}
    return tuple(name for name in names if name in chosen)


def smallest_side(network: Network) -> int:
    """The smallest image side, in pixels, that the network leaves anything of."""
    match network:
        case VGGLike():
            return int(2**network.depth)
        case VGG16():
            return int(2 ** (len(VGG16_BLOCKS) - 1))
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


def kept_on_the_way(before: int, kept: int, share: float) -> int:
    """How many weights are left after a `share` of a round's iterations, from `before` to `kept`.

    Each iteration keeps the same share of what it finds (Tanaka et al. 2020, SynFlow).
    """
    return round(before * (kept / before) ** share) if before else 0


def remaining_weights(layers: Sequence[int], pruning: Pruning) -> list[int]:
    """n_0 .. n_rounds, `layers` being the weights of each layer that is pruned, dense.

    Each layer is rounded by itself where it is ranked by itself.
    """
    return list(_remaining_weights(tuple(layers), pruning))


@functools.lru_cache(maxsize=1024)
def _remaining_weights(layers: tuple[int, ...], pruning: Pruning) -> tuple[int, ...]:
    dense = list(layers) if pruning.scope == "layer" else [sum(layers)]
    left = dense
    counts = [sum(dense)]
    for level in range(1, pruning.rounds + 1):
        share = pruning.share(level)
        left = [kept_weights(*pair, *share) for pair in zip(dense, left, strict=True)]
        counts.append(sum(left))
    return tuple(counts)


def _vgg_like_weights(network: VGGLike, channels: int, classes: int) -> dict[str, int]:
    weights = {}
    for block in range(network.depth):
        out_channels = network.width * 2**block
        # A block is conv, ReLU, BatchNorm, twice, and a max-pool.
        weights[f"features.{7 * block}"] = 9 * channels * out_channels
        weights[f"features.{7 * block + 3}"] = 9 * out_channels * out_channels
        channels = out_channels
    return {**weights, "classifier": channels * network.pool**2 * classes}


def _vgg16_weights(network: VGG16, channels: int, classes: int) -> dict[str, int]:
    weights, place = {}, 0
    for convolutions, factor in VGG16_BLOCKS:
        for _ in range(convolutions):
            outputs = network.width * factor
            weights[f"features.{place}"] = 9 * channels * outputs
            channels = outputs
            place += 3  # conv, BatchNorm, ReLU
        place += 1  # a max-pool, which the last block has none of
    return {**weights, "classifier": channels * classes}


def _resnet18_weights(channels: int, classes: int) -> dict[str, int]:
    weights = {"conv": 3**2 * channels * 64}
    for number, (inputs, width) in enumerate(_blocks((2, 2, 2, 2), 1)):
        weights |= _block(f"blocks.{number}", "shortcut.0", inputs, width, bottleneck=False)
    return {**weights, "classifier": 512 * classes}


def _torchvision_resnet_weights(
    network: TorchvisionResNet, channels: int, classes: int
) -> dict[str, int]:
    bottleneck = network.arch == "resnet50-imagenet"
    counts = (3, 4, 6, 3) if bottleneck else (2, 2, 2, 2)
    expansion = 4 if bottleneck else 1
    names = [f"layer{stage}.{b}" for stage, count in enumerate(counts, 1) for b in range(count)]
    weights = {"conv1": 7**2 * channels * 64}
    for name, (inputs, width) in zip(names, _blocks(counts, expansion), strict=True):
        weights |= _block(name, "downsample.0", inputs, width, bottleneck=bottleneck)
    return {**weights, "fc": 512 * expansion * classes}


def _blocks(counts: Sequence[int], expansion: int) -> Iterator[tuple[int, int]]:
    """Channels that come into each block of a ResNet, and its width."""
    channels = 64
    for stage, count in enumerate(counts):
        width = 64 * 2**stage
        for _ in range(count):
            yield channels, width
            channels = expansion * width


def _block(
    name: str, shortcut: str, inputs: int, width: int, *, bottleneck: bool
) -> dict[str, int]:
    """The layers of one block; with a projection where it changes the number of channels."""
    outputs = 4 * width if bottleneck else width
    sizes = [9 * inputs * width, 9 * width * width]
    if bottleneck:
        sizes = [inputs * width, 9 * width * width, width * outputs]
    weights = {f"{name}.conv{number}": size for number, size in enumerate(sizes, 1)}
    return weights if inputs == outputs else {**weights, f"{name}.{shortcut}": inputs * outputs}


def _mlp_weights(network: MLP, pixels: int, classes: int) -> dict[str, int]:
    *hidden, last = itertools.pairwise((pixels, *network.hidden, classes))
    # Between two layers is a ReLU.
    weights = {f"hidden.{2 * k}": math.prod(sides) for k, sides in enumerate(hidden)}
    return {**weights, "classifier": math.prod(last)}


def _vit_weights(network: ViT, channels: int, classes: int) -> dict[str, int]:
    dim, mlp = network.dim, network.mlp_dim
    block = {
        "attention.qkv": dim * 3 * dim,
        "attention.out": dim * dim,
        "linear1": dim * mlp,
        "linear2": mlp * dim,
    }
    weights = {"embedding": channels * network.patch**2 * dim}
    for number in range(network.depth):
        weights |= {f"blocks.{number}.{layer}": count for layer, count in block.items()}
    return {**weights, "classifier": dim * classes}
