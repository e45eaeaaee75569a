"""The images of a study as its networks see them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dsdctl.ml.data import Split
from dsdctl.ml.views import Normalization


@dataclass(frozen=True)
class ImageSet:
    """Images with their labels, int64 (N,). `labels` of training images may be noisy;
    `true_labels` never are. `len` is N."""

    labels: Tensor
    true_labels: Tensor
    _split: Split
    _normalization: Normalization

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """All images as a network's input: float32 (N, C, H, W), normalized, not augmented."""
        return torch.cat([images for images, _ in self.batches(1000)])

    @property
    def pixels(self) -> Tensor:
        """All images as they are stored: uint8 (N, H, W, C)."""
        return torch.cat(list(self._split.images.split(1000)))

    def batches(self, size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalized images, float32 (B, C, H, W), and their labels (B,), in order."""
        parts = zip(self._split.images.split(size), torch.split(self.labels, size), strict=True)
        for pixels, labels in parts:
            yield self._normalization(pixels), labels
