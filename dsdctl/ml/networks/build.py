"""A network that comes with dsdctl, built with the initial weights of a seed and level."""

import pkgutil
from collections.abc import Callable
from typing import Any

import torch

from dsdctl.ml.networks.network import Network
from dsdctl.ml.randomness import generator


def network_class(name: str) -> type[Network]:
    """The class `MODULE:CLASS` of `dsdctl.ml.networks`, whose module is imported only now, since
    importing torchvision takes a second."""
    return pkgutil.resolve_name(f"dsdctl.ml.networks.{name}")  # type: ignore[no-any-return]


def build_network(
    make: Callable[..., Network],
    in_channels: int,
    classes: int,
    *,
    seed: int,
    level: int = 0,
    **arguments: Any,
) -> Network:
    """Build a network with the initial weights of (`seed`, `level`).

    Level 0 is the original initialization of a trajectory; `retrain: reinit` draws new weights at
    each level. The weights are channels-last, in which convolutions are fastest. `arguments` are
    those of `make` besides the channels and classes.
    """
    # Module constructors draw from the global generator; what they draw is overwritten.
    with torch.random.fork_rng(devices=[]):
        network = make(in_channels, classes, **arguments)
    with torch.no_grad():
        network.initialize(generator("initialisation", seed, level))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
