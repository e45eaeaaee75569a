"""The scores by which pruning ranks weights: each round removes the lowest of the remaining ones.

Scores have the names and shapes of the weights.
"""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsdctl.ml.batches import inference_batch_size
from dsdctl.ml.device import precision
from dsdctl.ml.masks import Masks, apply_masks, prunable_weights
from dsdctl.ml.randomness import generator


def magnitude_scores(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """|w|."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def random_scores(weights: Mapping[str, Tensor], *, seed: int, level: int) -> dict[str, Tensor]:
    """Uniform in [0, 1), a function of `seed` and `level` alone; on the CPU."""
    stream = generator("random-pruning", seed, level)
    return {name: torch.rand(weight.shape, generator=stream) for name, weight in weights.items()}


def gradient_sample(images: int, size: int, *, seed: int, level: int) -> Tensor:
    """Indices (size,) of distinct images out of `images`, a function of `seed` and `level`."""
    return torch.randperm(images, generator=generator("gradient-sample", seed, level))[:size]


def gradient_scores(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """|w dL/dw|, where L is the cross-entropy summed over `images` (B, C, H, W), `labels` (B,).

    In fp32, and in eval mode so that images do not affect each other through BatchNorm. At
    initialization this is the connection sensitivity of Lee et al. 2019 (SNIP), up to its mean over
    images and its normalization, which do not change the ranking.
    """
    network.eval()
    weights = prunable_weights(network)
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with precision("fp32", labels.device):
        at_once = inference_batch_size(network, images[:1])
        parts = zip(torch.split(images, at_once), torch.split(labels, at_once), strict=True)
        for batch, targets in parts:
            loss = F.cross_entropy(network(batch), targets, reduction="sum")
            gradients = torch.autograd.grad(loss, list(weights.values()))
            for total, gradient in zip(totals.values(), gradients, strict=True):
                total += gradient
    return {name: (weights[name].detach() * total).abs() for name, total in totals.items()}


def synflow_scores(network: nn.Module, images: Tensor, masks: Masks) -> dict[str, Tensor]:
    """|w| dR/d|w|, where R is the sum of the logits for images of ones (Tanaka et al. 2020).

    SynFlow: all parameters and buffers are replaced by their absolute values, and removed weights
    are zero. Of `images` (B, C, H, W) only the shape matters. In eval mode, as in the authors'
    code, and in float64, in which products over many layers neither overflow nor vanish.
    """
    positive = copy.deepcopy(network).double().eval()
    with torch.no_grad():
        for tensor in positive.state_dict().values():
            if tensor.dtype != torch.bool:  # such as an attention mask, which has no abs
                tensor.abs_()
    weights = prunable_weights(positive)
    apply_masks(weights, masks)
    flow = positive(torch.ones_like(images, dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()))
    return {
        name: weight.detach() * gradient
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
