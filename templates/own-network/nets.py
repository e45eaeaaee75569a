"""The networks of own-network.yaml. What this file imports from beside itself belongs to them."""

from torch import Tensor, nn


class SmallNet(nn.Module):
    """Two convolutions, the mean over each map, and a Linear layer.

    Weights of Conv2d and Linear layers are pruned, norms and biases never. The entropy is that of
    nn.ReLU and nn.GELU modules, one for each place: `F.relu` is not seen.
    """

    def __init__(self, in_channels: int, classes: int, width: int = 8):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> logits (B, K)."""
        return self.head(self.features(images).mean((2, 3)))
