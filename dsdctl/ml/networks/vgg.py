"""The paper's VGG-like network. Every ReLU is a module of its own.

Shapes: B images, C channels, H x W pixels, K classes.
"""

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsdctl.ml.kernels.convolution import Conv3x3
from dsdctl.ml.kernels.observed import has_hooks, is_tracing
from dsdctl.ml.kernels.relu_norm import FusedSequential
from dsdctl.ml.networks.initialization import default_init
from dsdctl.ml.networks.network import Link, Network, links_in_a_row


class AdaptivePool(nn.AdaptiveAvgPool2d):
    """Adaptive average pooling to `size` x `size`, deterministic on GPUs too.

    The CUDA backward of torch's operator has no deterministic version. A 1x1 map is expanded and a
    map of the right size returned as it is, both bit for bit the same; other maps are averaged on a
    GPU by two small matrix products, the same but for rounding. When traced, torch's operator is
    used, so that fvcore counts the network as the paper does.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, size, size)."""
        size = int(self.output_size)  # type: ignore[arg-type]
        height, width = maps.shape[-2:]
        if torch._C._get_tracing_state():
            return super().forward(maps)
        if (height, width) == (1, 1):
            return maps.expand(-1, -1, size, size)
        if (height, width) == (size, size):
            return maps
        if maps.is_cuda:
            rows, columns = (_matrix(n, size, maps.dtype, maps.device) for n in (height, width))
            return rows @ maps @ columns.T
        return super().forward(maps)


def pooling_matrix(length: int, size: int) -> Tensor:
    """Adaptive average pooling along one side, as a matrix (size, length): bin i averages the
    inputs from floor(i length / size) to ceil((i + 1) length / size), exclusive."""
    matrix = torch.zeros(size, length)
    for i in range(size):
        start, stop = i * length // size, -(-(i + 1) * length // size)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


@functools.cache
def _matrix(length: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The pooling matrix on `device`, cast before it is copied there, once: another thread's stream
    would not wait for a computation on this one's."""
    return pooling_matrix(length, size).to(dtype).to(device)


class VGGLike(Network):
    """VGG-like(depth, width): per block two conv3x3 -> ReLU -> BatchNorm, then a 2x2 max-pool.

    Block i (from 1) has width * 2**(i - 1) channels; then adaptive average pooling to
    `pool` x `pool` and one Linear layer. Initialized as PyTorch does by default.
    """

    def __init__(self, in_channels: int, classes: int, *, depth: int, width: int, pool: int = 7):
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for block in range(depth):
            out_channels = width * 2**block
            for _ in range(2):
                layers += [
                    Conv3x3(channels, out_channels),
                    nn.ReLU(),
                    nn.BatchNorm2d(out_channels),
                ]
                channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = FusedSequential(*layers)
        self.pool = AdaptivePool(pool)
        self.classifier = nn.Linear(channels * pool * pool, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)."""
        maps = self.features(images)
        observed = is_tracing() or has_hooks(self.pool) or has_hooks(self.classifier)
        if self.training and not observed and maps.shape[2:] == (1, 1):
            # The pooled map would be pool x pool copies of one pixel: sum the weights instead.
            weight = self.classifier.weight
            summed = weight.view(len(weight), maps.shape[1], -1).sum(2)
            return F.linear(maps.flatten(1), summed, self.classifier.bias)
        return self.classifier(self.pool(maps).flatten(1))  # type: ignore[no-any-return]

    def initialize(self, stream: torch.Generator) -> None:
        """Draw all weights from `stream`, in module order."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                default_init(module, stream)

    def links(self) -> Iterator[Link]:
        """The channels of each convolution; the classifier reads a whole map of the last."""
        pooled = int(self.pool.output_size) ** 2  # type: ignore[arg-type]
        return links_in_a_row(self.features, self.classifier, pooled)
