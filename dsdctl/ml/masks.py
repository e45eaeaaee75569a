"""Masks over the Conv2d and Linear weights of a network, by their state_dict names.

A mask is bool, shaped as its weight, and True where the weight is kept.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

Masks = dict[str, Tensor]


def prunable_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights that pruning ranks: Conv2d and Linear, not biases, not BatchNorm."""
    return {
        f"{name}.weight": module.weight
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def dense_masks(weights: Mapping[str, Tensor]) -> Masks:
    """Return masks that keep all `weights`."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def count_nonzero(masks: Masks) -> int:
    """Return how many weights the masks keep."""
    return sum(int(mask.count_nonzero()) for mask in masks.values())


def remove_lowest(scores: Mapping[str, Tensor], masks: Masks, removed: int) -> Masks:
    """Remove the `removed` remaining weights with the lowest scores, ranked over all layers.

    Scores have the names and shapes of the masks. Among equal scores, weights that come first in
    the order of `masks` are removed first. Returns new masks.
    """
    kept = [scores[name].to(mask.device)[mask] for name, mask in masks.items()]
    # On the CPU, whose kthvalue is deterministic, so that all devices agree.
    remaining = torch.cat(kept).cpu()
    if removed == 0:
        return dict(masks)
    threshold = remaining.kthvalue(removed).values
    keep = remaining > threshold
    ties = (remaining == threshold).nonzero().flatten()
    spared = ties.numel() - (removed - int((remaining < threshold).count_nonzero()))
    if spared:
        keep[ties[-spared:]] = True
    return _scatter(keep, masks)


def _scatter(keep: Tensor, masks: Masks) -> Masks:
    """Turn decisions about the R remaining weights, bool (R,), into masks of full shape."""
    new: Masks = {}
    start = 0
    for name, mask in masks.items():
        stop = start + int(mask.count_nonzero())
        new[name] = mask.clone()
        new[name][mask] = keep[start:stop].to(mask.device)
        start = stop
    return new


@torch.no_grad()
def apply_masks(weights: Mapping[str, Tensor], masks: Masks) -> None:
    """Set the removed weights to zero in place."""
    for name, mask in masks.items():
        weights[name].mul_(mask)
