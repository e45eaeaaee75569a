"""torchvision's ResNets, for large images. Importing this module imports torchvision.

A block calls its one ReLU two or three times; the entropy counter counts each call by itself.
"""

import torch
from torch import nn

from dsdctl.ml.networks.initialization import initialize_resnet
from dsdctl.ml.networks.network import Network
from dsdctl.system.torchvision import models

_LAYOUTS = {
    18: (models.resnet.BasicBlock, [2, 2, 2, 2]),
    50: (models.resnet.Bottleneck, [3, 4, 6, 3]),
}


class TorchvisionResNet(models.ResNet, Network):  # type: ignore[misc]
    """ResNet-`depth` with torchvision's names, so that its published weights can be a teacher's.

    If images do not have three channels, the first convolution is replaced. Convolutions are
    initialized Kaiming-normal (fan out), the Linear layer as PyTorch does.
    """

    def __init__(self, in_channels: int, classes: int, *, depth: int):
        block, layers = _LAYOUTS[depth]
        super().__init__(block, layers, num_classes=classes)
        if in_channels != 3:
            self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)

    def initialize(self, stream: torch.Generator) -> None:
        """Draw all weights from `stream`, in module order."""
        initialize_resnet(self, stream)
