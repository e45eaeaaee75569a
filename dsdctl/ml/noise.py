"""Label noise: which training labels are flipped, and to what."""

import torch
from torch import Tensor


def flip_symmetric(labels: Tensor, classes: int, rate: float, stream: torch.Generator) -> Tensor:
    """Replace exactly int(N * rate) labels, a random subset, by a uniformly drawn other class.

    labels: (N,) int64; returns a new (N,) int64. `rate` is thus the true flip rate.
    """
    count = int(len(labels) * rate)
    flipped = torch.randperm(len(labels), generator=stream)[:count]
    shift = torch.randint(1, classes, (count,), generator=stream)
    noisy = labels.clone()
    noisy[flipped] = (labels[flipped] + shift) % classes
    return noisy
