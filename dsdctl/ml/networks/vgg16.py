"""VGG-16 for small images, as in OpenLTH and He et al. (2022). Every ReLU is a module of its own.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from dsdctl.ml.kernels.convolution import Conv3x3
from dsdctl.ml.kernels.relu_norm import FusedSequential
from dsdctl.ml.networks.initialization import default_init
from dsdctl.ml.networks.network import Link, Network, links_in_a_row

BLOCKS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))
"""For each block, its number of convolutions and its channels as a multiple of the width."""


class VGG16(Network):
    """13 conv3x3 -> BatchNorm -> ReLU in five blocks, with 2x2 max-pooling between blocks.

    Then global average pooling (of 2x2 maps, if images are 32 x 32) and one Linear layer.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        width: int = 64,
        weights_init: Literal["kaiming-normal", "default"] = "kaiming-normal",
        batchnorm_init: Literal["uniform", "ones"] = "uniform",
    ):
        super().__init__()
        self._weights_init = weights_init
        self._batchnorm_init = batchnorm_init
        layers: list[nn.Module] = []
        channels = in_channels
        for convolutions, factor in BLOCKS:
            if layers:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                outputs = factor * width
                layers += [Conv3x3(channels, outputs), nn.BatchNorm2d(outputs), nn.ReLU()]
                channels = outputs
        self.features = FusedSequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)."""
        return self.classifier(self.features(images).mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def initialize(self, stream: torch.Generator) -> None:
        """Draw all weights from `stream`, in module order; biases as PyTorch does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                default_init(module, stream)
                if self._weights_init == "kaiming-normal":
                    nn.init.kaiming_normal_(module.weight, generator=stream)
            elif isinstance(module, nn.BatchNorm2d) and self._batchnorm_init == "uniform":
                nn.init.uniform_(module.weight, generator=stream)

    def links(self) -> Iterator[Link]:
        """The channels of each convolution."""
        return links_in_a_row(self.features, self.classifier)
