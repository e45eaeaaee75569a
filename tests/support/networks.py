"""Networks by what a spec calls them."""

import typing
from typing import Any

from dsdctl.ml.networks import build
from dsdctl.ml.networks.network import Network
from dsdctl.spec.network import AnyBuiltIn

MODELS = {
    arch: model
    for model in typing.get_args(AnyBuiltIn)
    for arch in typing.get_args(model.model_fields["arch"].annotation)
}
"""What a spec may say of each network, by its `arch`."""


def build_network(
    arch: str,
    in_channels: int,
    classes: int,
    *,
    seed: int,
    level: int = 0,
    image_size: tuple[int, int] = (8, 8),
    **options: Any,
) -> Network:
    """A network as a spec's `arch` and further keys have it built."""
    choice = MODELS[arch](arch=arch, **options)
    make = build.network_class(choice.MODULE)
    arguments = choice.arguments(image_size)
    return build.build_network(make, in_channels, classes, seed=seed, level=level, **arguments)
