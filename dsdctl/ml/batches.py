"""How many images go through a network at once where nothing is learnt from batches.

A function of the network and the images alone, never of the machine: it is part of the numerics,
and whoever changes it raises NUMERICS_VERSION.
"""

import torch
from torch import Tensor, nn

BATCH = 500
"""Images in a batch at most."""

ACTIVATION_BYTES = 4 * 2**30
"""What the layers' outputs for a batch may take in fp32, if all are kept as for a gradient."""


@torch.no_grad()
def inference_batch_size(network: nn.Module, image: Tensor) -> int:
    """How many images like `image` (1, C, H, W) fit into a batch; `network` is in eval mode.

    500 of 32 x 32 pixels do for each of the paper's networks.
    """
    elements = image.numel()

    def add(_module: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal elements
        elements += output.numel() if isinstance(output, Tensor) else 0

    layers = [module for module in network.modules() if next(module.children(), None) is None]
    handles = [layer.register_forward_hook(add) for layer in layers]
    try:
        network(image)
    finally:
        for handle in handles:
            handle.remove()
    return max(1, min(BATCH, ACTIVATION_BYTES // (4 * elements)))
