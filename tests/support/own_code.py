"""A network of one's own in two files, and the soak's spec with it."""

from pathlib import Path

from builders import write
from soak import spec

NETS = """\
from blocks import conv_block
from torch import nn


class Net(nn.Module):
    def __init__(self, in_channels, classes, width=3):
        super().__init__()
        self.features = conv_block(in_channels, width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))
"""

BLOCKS = """\
from torch import nn


def conv_block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())
"""

STUDENT = (
    "student: {arch: vgg-like, depth: 1, width: 4, pool: 2}",
    'student: {arch: "nets.py:Net"}',
)


def own_spec(folder: Path, *changes: tuple[str, str]) -> None:
    """Write `small.yaml` with the network, and its code beside it."""
    write(folder / "nets.py", NETS)
    write(folder / "blocks.py", BLOCKS)
    spec(folder, STUDENT, *changes)


def change_code(folder: Path) -> None:
    """Let what the network imports compute something else."""
    write(folder / "blocks.py", BLOCKS.replace("nn.ReLU()", "nn.GELU()"))
