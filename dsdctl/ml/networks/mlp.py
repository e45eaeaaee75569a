"""A fully connected network, by default LeNet-300-100. Every ReLU is a module of its own."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from dsdctl.ml.networks.initialization import default_init
from dsdctl.ml.networks.network import Link, Network


class MLP(Network):
    """Linear -> ReLU for each width in `hidden`, then one Linear layer; PyTorch's default
    initialization. `image_size` is (H, W) in pixels."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        image_size: tuple[int, int],
        hidden: Sequence[int] = (300, 100),
    ):
        super().__init__()
        layers: list[nn.Module] = []
        features = in_channels * math.prod(image_size)
        for width in hidden:
            layers += [nn.Linear(features, width), nn.ReLU()]
            features = width
        self.hidden = nn.Sequential(*layers)
        self.classifier = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)."""
        return self.classifier(self.hidden(images.flatten(1)))  # type: ignore[no-any-return]

    def initialize(self, stream: torch.Generator) -> None:
        """Draw all weights from `stream`, in module order."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                default_init(module, stream)

    def links(self) -> Iterator[Link]:
        """The units of each hidden layer."""
        layers = [module for module in self.hidden if isinstance(module, nn.Linear)]
        for writer, reader in zip(layers, [*layers[1:], self.classifier], strict=True):
            yield Link(writer, (nn.ReLU(),), reader)
