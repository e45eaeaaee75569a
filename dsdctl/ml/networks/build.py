"""A network that comes with dsdctl, built with the initial weights of a seed and level."""

import pkgutil
from collections.abc import Callable
from typing import Any

import torch

from dsdctl.ml.networks.network import Network
from dsdctl.ml.randomness import generator


def network_class(name: str) -> type[Network]:
    """The class that is called `MODULE:CLASS` below `dsdctl.ml.networks`.

    Its module is imported only now: torchvision, say, takes a second.
    """
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

    Level 0 gives a trajectory's original initialization; `retrain: reinit` draws a new one a level.
    Channels-last, which is what the convolutions of CPUs and tensor cores want.
    """
    with torch.random.fork_rng(devices=[]):  # module constructors draw from global state
        network = make(in_channels, classes, **arguments)
    with torch.no_grad():
        network.initialize(generator("initialisation", seed, level))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
