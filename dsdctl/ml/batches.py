"""The batch size of inference: of measuring, teacher logits and gradient scores.

It depends on the network and the images alone, never on the machine, since results round
differently in batches of another size: whoever changes it raises NUMERICS_VERSION.
"""

import torch
from torch import Tensor, nn

BATCH = 500
"""Upper limit on the images of a batch."""

ACTIVATION_BYTES = 4 * 2**30
"""Upper limit on a batch's activations in fp32, all kept at once as for a backward pass."""


@torch.no_grad()
def inference_batch_size(network: nn.Module, image: Tensor) -> int:
    """How many images like `image` fit into a batch under both limits, and at least one.

    image: float (1, C, H, W), normalized; `network` is in eval mode. Each of the paper's networks
    takes the full 500 images of 32 x 32 pixels.
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
