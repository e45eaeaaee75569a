"""Label noise: which training labels are selected, and what replaces them.

Shapes: N labels of K classes. Exactly int(N * rate) labels are selected, a random subset.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """How labels are made noisy. Asymmetric noise turns class c into `targets[c]`, of K classes."""

    kind: str
    rate: float
    seed: int
    targets: tuple[int, ...] = ()


def noisy_labels(labels: Tensor, classes: int, noise: Noise, stream: torch.Generator) -> Tensor:
    """Apply `noise`, drawing from `stream`. labels: (N,) int64; returns a new (N,) int64."""
    match noise.kind:
        case "symmetric":
            return flip_symmetric(labels, classes, noise.rate, stream)
        case "symmetric-all":
            return redraw(labels, classes, noise.rate, stream)
        case "asymmetric":
            return flip_to(labels, torch.tensor(noise.targets), noise.rate, stream)
        case "pair-flip":
            following = (torch.arange(classes) + 1) % classes
            return flip_to(labels, following, noise.rate, stream)
    raise AssertionError(noise.kind)


def flip_symmetric(labels: Tensor, classes: int, rate: float, stream: torch.Generator) -> Tensor:
    """Replace each selected label by another class, drawn uniformly: `rate` is the true flip rate.

    labels: (N,) int64; returns a new (N,) int64.
    """
    selected = _select(len(labels), rate, stream)
    shift = torch.randint(1, classes, (len(selected),), generator=stream)
    noisy = labels.clone()
    noisy[selected] = (labels[selected] + shift) % classes
    return noisy


def redraw(labels: Tensor, classes: int, rate: float, stream: torch.Generator) -> Tensor:
    """Replace each selected label by a class drawn uniformly from all, the true one included.

    The true flip rate is about rate * (1 - 1/K) (He et al. 2022). labels: (N,) int64; returns a
    new (N,) int64.
    """
    selected = _select(len(labels), rate, stream)
    noisy = labels.clone()
    noisy[selected] = torch.randint(classes, (len(selected),), generator=stream)
    return noisy


def flip_to(labels: Tensor, targets: Tensor, rate: float, stream: torch.Generator) -> Tensor:
    """Replace each selected label c by targets[c].

    labels: (N,) int64; targets: (K,) int64; returns a new (N,) int64.
    """
    selected = _select(len(labels), rate, stream)
    noisy = labels.clone()
    noisy[selected] = targets[labels[selected]]
    return noisy


def _select(count: int, rate: float, stream: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=stream)[: int(count * rate)]
