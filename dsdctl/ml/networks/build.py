"""Every network by its name in a spec, built with the initial weights of a seed and level."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from dsdctl.ml.networks.mlp import MLP
from dsdctl.ml.networks.resnet import ResNet18
from dsdctl.ml.networks.vgg import VGGLike
from dsdctl.ml.networks.vgg16 import VGG16
from dsdctl.ml.networks.vit import ViT
from dsdctl.ml.randomness import generator

if TYPE_CHECKING:
    from dsdctl.ml.networks.torchvision_resnet import TorchvisionResNet

Network: TypeAlias = "VGGLike | VGG16 | ResNet18 | TorchvisionResNet | MLP | ViT"


def _torchvision_resnet(depth: int) -> "Callable[[int, int], TorchvisionResNet]":
    """Import torchvision, which takes a second, only where its networks are wanted."""

    def build(in_channels: int, classes: int) -> "TorchvisionResNet":
        from dsdctl.ml.networks.torchvision_resnet import TorchvisionResNet

        return TorchvisionResNet(in_channels, classes, depth=depth)

    return build


NETWORKS: dict[str, Callable[..., Network]] = {
    "vgg-like": VGGLike,
    "vgg16": VGG16,
    "resnet18": ResNet18,
    "resnet18-imagenet": _torchvision_resnet(18),
    "resnet50-imagenet": _torchvision_resnet(50),
    "mlp": MLP,
    "vit": ViT,
}

SIZED = ("mlp", "vit")
"""Networks whose parameters depend on the size of the images."""


def build_network(
    arch: str,
    in_channels: int,
    classes: int,
    *,
    seed: int,
    level: int = 0,
    image_size: tuple[int, int] | None = None,
    **options: Any,
) -> Network:
    """Build `arch` with the initial weights of (`seed`, `level`).

    Level 0 gives a trajectory's original initialisation; `retrain: reinit` draws a new one a level.
    `image_size` is (H, W), which the networks in SIZED must be given and the others do not need.
    Channels-last, which is what the convolutions of CPUs and tensor cores want.
    """
    if arch in SIZED:
        options["image_size"] = image_size
    with torch.random.fork_rng(devices=[]):  # module constructors draw from global state
        network = NETWORKS[arch](in_channels, classes, **options)
    with torch.no_grad():
        network.initialise(generator("initialisation", seed, level))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
