"""The paper's networks. Every ReLU is a module of its own, so that entropy sees each one.

Shapes: B images, C channels, H x W pixels, K classes.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dsdctl.ml.convolution import Conv3x3
from dsdctl.ml.randomness import generator


class AdaptivePool(nn.AdaptiveAvgPool2d):
    """Average pooling to `size` x `size`, by other means where these give the same bit for bit.

    The CUDA backward of adaptive pooling has no deterministic version. A 1x1 map is expanded and
    a map of the size wanted is passed on; elsewhere the average is two small matrix products on a
    GPU, which are deterministic. Tracing keeps the operator, so that fvcore counts the network as
    the paper does.
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
            return pooling_matrix(height, size, maps) @ maps @ pooling_matrix(width, size, maps).T
        return super().forward(maps)


def pooling_matrix(length: int, size: int, like: Tensor) -> Tensor:
    """Adaptive average pooling along one side as a matrix (size, length): bin i averages the
    inputs from floor(i length / size) up to ceil((i + 1) length / size)."""
    matrix = torch.zeros(size, length)
    for i in range(size):
        start, stop = i * length // size, -(-(i + 1) * length // size)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix.to(like)


class VGGLike(nn.Module):
    """VGG-like(depth, width): per block two conv3x3 -> ReLU -> BatchNorm, then a 2x2 max-pool.

    Block i (from 1) has width * 2**(i - 1) channels; then adaptive average pooling to
    `pool` x `pool` and one Linear layer. Initialised as PyTorch does by default.
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
        self.features = nn.Sequential(*layers)
        self.pool = AdaptivePool(pool)
        self.classifier = nn.Linear(channels * pool * pool, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)."""
        return self.classifier(self.pool(self.features(images)).flatten(1))  # type: ignore[no-any-return]

    def initialise(self, stream: torch.Generator) -> None:
        """Draw all weights anew from `stream`, in module order."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                _default_init(module, stream)


class BasicBlock(nn.Module):
    """Two conv3x3 with BatchNorm and a shortcut; 1x1 projection where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = Conv3x3(in_channels, out_channels, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = Conv3x3(out_channels, out_channels, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out = self.relu1(self.bn1(self.conv1(maps)))
        return self.relu2(self.bn2(self.conv2(out)) + self.shortcut(maps))  # type: ignore[no-any-return]


class ResNet18(nn.Module):
    """ResNet-18 as the paper has it: 3x3 stride-1 stem with the 3x3 stride-2 max-pool kept.

    Convolutions are initialised Kaiming-normal (fan out), the Linear layer as PyTorch does.
    """

    def __init__(self, in_channels: int, classes: int):
        super().__init__()
        self.conv = Conv3x3(in_channels, 64, bias=False)
        self.bn = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        blocks: list[nn.Module] = []
        channels = 64
        for stage, out_channels in enumerate((64, 128, 256, 512)):
            for stride in (1 if stage == 0 else 2, 1):
                blocks.append(BasicBlock(channels, out_channels, stride))
                channels = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)."""
        maps = self.maxpool(self.relu(self.bn(self.conv(images))))
        return self.classifier(self.pool(self.blocks(maps)).flatten(1))  # type: ignore[no-any-return]

    def initialise(self, stream: torch.Generator) -> None:
        """Draw all weights anew from `stream`, in module order."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=stream
                )
            elif isinstance(module, nn.Linear):
                _default_init(module, stream)


Network = VGGLike | ResNet18

NETWORKS: dict[str, Callable[..., Network]] = {"vgg-like": VGGLike, "resnet18": ResNet18}


def build_network(
    arch: str, in_channels: int, classes: int, *, seed: int, level: int = 0, **options: int
) -> Network:
    """Build `arch` with the initial weights of (`seed`, `level`).

    Level 0 gives a trajectory's original initialisation; `retrain: reinit` draws a new one a level.
    Channels-last, which is what the convolutions of CPUs and tensor cores want.
    """
    with torch.random.fork_rng(devices=[]):  # module constructors draw from global state
        network = NETWORKS[arch](in_channels, classes, **options)
    with torch.no_grad():
        network.initialise(generator("initialisation", seed, level))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _default_init(module: nn.Conv2d | nn.Linear, stream: torch.Generator) -> None:
    """Initialise as PyTorch's `reset_parameters` does, but from `stream`."""
    nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5), generator=stream)
    if module.bias is not None:
        bound = 1 / math.sqrt(module.weight[0].numel())
        nn.init.uniform_(module.bias, -bound, bound, generator=stream)
