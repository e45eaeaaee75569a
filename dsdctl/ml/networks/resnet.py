"""The paper's ResNet-18. Every ReLU is a module of its own.

Shapes: B images, C channels, H x W pixels, K classes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dsdctl.ml.kernels.convolution import Conv3x3
from dsdctl.ml.kernels.relu_norm import FusedSequential, norm_relu
from dsdctl.ml.networks.initialization import initialize_resnet
from dsdctl.ml.networks.network import Link, Network


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
            self.shortcut = FusedSequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H / stride, W / stride)."""
        out = norm_relu(self.bn1, self.relu1, self.conv1(maps))
        return norm_relu(self.bn2, self.relu2, self.conv2(out), self.shortcut(maps))


class ResNet18(Network):
    """ResNet-18 as the paper has it: 3x3 stride-1 stem with the 3x3 stride-2 max-pool kept.

    Convolutions are initialized Kaiming-normal (fan out), the Linear layer as PyTorch does.
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
        maps = self.maxpool(norm_relu(self.bn, self.relu, self.conv(images)))
        return self.classifier(self.pool(self.blocks(maps)).flatten(1))  # type: ignore[no-any-return]

    def initialize(self, stream: torch.Generator) -> None:
        """Draw all weights from `stream`, in module order."""
        initialize_resnet(self, stream)

    def links(self) -> Iterator[Link]:
        """The channels inside each block; those of its output are shared by the residual sums."""
        for block in self.modules():
            if isinstance(block, BasicBlock):
                yield Link(block.conv1, (block.bn1, block.relu1), block.conv2)
