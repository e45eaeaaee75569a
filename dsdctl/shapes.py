"""Closed forms of what a network holds, so that specs can be checked without torch."""

from dsdctl.spec import ResNet18, VGGLike


def layer_weights(network: VGGLike | ResNet18, in_channels: int, classes: int) -> list[int]:
    """Weights of each Conv2d and Linear layer (no biases), in the order of the network."""
    if isinstance(network, ResNet18):
        return _resnet18_weights(in_channels, classes)
    weights = []
    channels = in_channels
    for block in range(network.depth):
        out_channels = network.width * 2**block
        weights += [9 * channels * out_channels, 9 * out_channels * out_channels]
        channels = out_channels
    return [*weights, channels * network.pool**2 * classes]


def smallest_side(network: VGGLike | ResNet18) -> int:
    """The smallest image side, in pixels, that the network's poolings leave anything of."""
    return 1 if isinstance(network, ResNet18) else 2**network.depth


def remaining_weights(total: int, fraction: float, rounds: int) -> list[int]:
    """n_0 .. n_rounds with n_k = n_{k-1} - round(fraction * n_{k-1})."""
    counts = [total]
    for _ in range(rounds):
        counts.append(counts[-1] - round(fraction * counts[-1]))
    return counts


def _resnet18_weights(in_channels: int, classes: int) -> list[int]:
    weights = [9 * in_channels * 64]
    channels = 64
    for out_channels in (64, 128, 256, 512):
        inner = 9 * out_channels * out_channels
        shortcut = [channels * out_channels] if out_channels != channels else []
        weights += [9 * channels * out_channels, inner, *shortcut, inner, inner]
        channels = out_channels
    return [*weights, channels * classes]
