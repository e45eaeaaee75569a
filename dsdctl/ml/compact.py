"""Removing dead channels, so that a pruned network gets smaller and computes the same function.

A channel is dead if all weights that read it, or all that write it, are pruned. One that no weight
writes does not depend on the image: its value is a constant, given by its bias and BatchNorm. Where
a Linear layer reads it, the constant is folded into that layer's bias. A convolution cannot fold it
in, since zero padding ends the constant at the border; there all constant channels of a layer are
merged into one.

Inference runtimes compute channels in blocks, and fall back to slower code where the number of
channels is no multiple of a block (on x86: 8 with AVX2, 16 with AVX-512), so that a narrower layer
may take longer than the full one. With a `block`, convolutions keep enough dead channels to fill
their last block.

Left as they are: the channels of a ResNet's residual stream, vision transformers, and networks of a
user's own, whose layers' connections are not known.
"""

import copy
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from dsdctl.ml.networks.network import Link, Network, state_sizes


@torch.no_grad()
def compacted(network: nn.Module, block: int = 1) -> nn.Module:
    """A copy of `network`, which is on the CPU, without its dead channels and in eval mode.

    The channels of a convolution are kept to a multiple of `block`, or all of them.
    """
    smaller = copy.deepcopy(network).eval()
    links = list(links_of(smaller))
    # Removing a channel may leave those of other layers unread or unwritten: until nothing changes.
    while any(_remove_unread(link, block) or _remove_unwritten(link, block) for link in links):
        pass
    return smaller


def links_of(network: nn.Module) -> Iterator[Link]:
    """Every set of channels of `network` that can be removed independently of the others."""
    return network.links() if isinstance(network, Network) else iter(())


def _remove_unread(link: Link, block: int) -> bool:
    """Remove the channels that no weight reads; say whether any went."""
    return _remove(link, ~_has_weight(link.read.transpose(0, 1)), block)


def _remove_unwritten(link: Link, block: int) -> bool:
    """Remove the channels that no weight writes, and let the reader account for their constants;
    say whether any went."""
    dead, values = ~_has_weight(link.writer.weight), link.constants()
    if isinstance(link.reader, nn.Linear):
        added = link.read[:, dead] * _per_channel(values[dead], link.read)
        link.reader.bias.add_(added.flatten(1).sum(1))
        link.read[:, dead] = 0
        return _remove(link, dead, block)
    if int(dead.count_nonzero()) < 2:
        return False
    # The constants are merged into the largest, so that no ratio to it exceeds 1.
    chosen = int((values.abs() * dead).argmax())
    dead[chosen] = False
    if values[chosen] != 0:
        ratios = _per_channel(values[dead] / values[chosen], link.read)
        link.read[:, chosen].add_((link.read[:, dead] * ratios).sum(1))
    link.read[:, dead] = 0  # some of them may stay, to fill a block
    return _remove(link, dead, block)


def _remove(link: Link, dead: Tensor, block: int) -> bool:
    """Remove the channels that are `dead`, bool (C,); say whether any went.

    Those that fill a convolution's last block stay, and so does one where all are dead.
    """
    least = max(1, int((~dead).count_nonzero()))
    if isinstance(link.writer, nn.Conv2d):
        least = min(len(dead), math.ceil(least / block) * block)
    kept = dead.to(torch.int8).argsort(stable=True)[:least].sort().values
    if len(kept) == len(dead):
        return False
    link.keep(kept)
    return True


def _has_weight(weights: Tensor) -> Tensor:
    """Which rows of (C, ...) have a weight other than zero: bool (C,)."""
    return weights.flatten(1).any(1)


def _per_channel(values: Tensor, weights: Tensor) -> Tensor:
    """Reshape (C,) to broadcast over the channels of `weights` (outputs, C, ...)."""
    return values.view(1, -1, *[1] * (weights.dim() - 2))


def fit_to(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Resize the layers of `network`, in place, to the shapes of its compacted `tensors`.

    `tensors` are by state_dict name. Resized parameters are left uninitialized.
    """
    for name, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            continue
        for key, tensor in module.state_dict().items():
            wanted = tensors.get(f"{name}.{key}")
            if wanted is None or wanted.shape == tensor.shape:
                continue
            is_parameter = isinstance(getattr(module, key), nn.Parameter)
            empty = torch.empty(wanted.shape)
            setattr(module, key, nn.Parameter(empty) if is_parameter else empty)
        if isinstance(module, nn.BatchNorm2d):
            module.num_features = len(module.weight)
        elif module.weight.dim() > 1:
            state_sizes(module)
