"""Make the archive that the specs in specs/small read: a part of CIFAR-10 at half its size.

    python docs/small_cifar10.py data/cifar10-small.npz

Takes the first 2,000 training and the first 2,000 test images of torchvision's CIFAR10, which is
downloaded where it is absent, and averages their pixels two by two: x_train and x_test, uint8
(2000, 16, 16, 3), y_train and y_test, int64 (2000,).
"""

import argparse
from pathlib import Path

import numpy as np

from dsdctl.system.torchvision import datasets

COUNT = 2000


def halved(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) -> uint8 (N, H / 2, W / 2, C)."""
    count, height, width, channels = images.shape
    blocks = images.reshape(count, height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)


def main() -> None:
    """Write the archive that the command line names."""
    parser = argparse.ArgumentParser(description="Make the archive of the specs in specs/small.")
    parser.add_argument("out", type=Path, help="the .npz file to write")
    parser.add_argument("--root", default="~/data", help="folder of torchvision's CIFAR-10")
    arguments = parser.parse_args()
    arrays = {}
    for part in ("train", "test"):
        root = Path(arguments.root).expanduser()
        cifar = datasets.CIFAR10(str(root), train=part == "train", download=True)
        arrays[f"x_{part}"] = halved(cifar.data[:COUNT])
        arrays[f"y_{part}"] = np.array(cifar.targets[:COUNT])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(arguments.out, **arrays)


if __name__ == "__main__":
    main()
