"""Masks over the Conv2d and Linear weights of a network, by their state_dict names."""

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
    """Return masks (bool, shapes of `weights`) that keep everything."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def count_nonzero(masks: Masks) -> int:
    """Return how many weights the masks keep."""
    return sum(int(mask.count_nonzero()) for mask in masks.values())


def prune_by_magnitude(weights: Mapping[str, Tensor], masks: Masks, fraction: float) -> Masks:
    """Remove the `fraction` of the remaining weights whose magnitude is smallest, ranked globally.

    Exactly round(fraction * remaining) go, as torch.nn.utils.prune counts them; among equal
    magnitudes those that come first in the order of `weights` go first.
    """
    kept = [weights[name].detach()[mask].abs() for name, mask in masks.items()]
    # On the CPU, where kthvalue is deterministic, so that all devices agree.
    remaining = torch.cat(kept).cpu()
    removed = round(fraction * remaining.numel())
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
    """Turn decisions about the remaining weights (1-d) into masks of full shape."""
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
