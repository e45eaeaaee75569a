"""Removing channels that do nothing, so that a pruned network is smaller and computes the same.

A channel does nothing where no weight reads it, and nothing that depends on the image where no
weight writes it: it is then a constant, of its bias and BatchNorm. Constants that a Linear layer
reads are added to its bias. A convolution pads with zeros, so that a constant is none at the
border; there all constant channels of a layer become one.

Runtimes compute channels in blocks, and take slower ways where a count is no multiple of them (x86
has 8 with AVX2, 16 with AVX-512): then a narrower layer may take longer than the whole one. So
convolutions may be given a block, to which channels that do nothing are kept.

What is left as it is: the sum that the blocks of a ResNet add to, vision transformers, and networks
of a user's own, of which it is not known which layers read what others write.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsdctl.ml.networks.mlp import MLP
from dsdctl.ml.networks.resnet import BasicBlock
from dsdctl.ml.networks.vgg import VGGLike
from dsdctl.ml.networks.vgg16 import VGG16

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Link:
    """The C channels that `writer` writes and, after the modules `between`, `reader` reads.

    `positions` of the reader's inputs belong to each channel: 1, or those of a map that a Linear
    layer reads.
    """

    writer: Layer
    between: tuple[nn.Module, ...]
    reader: Layer
    positions: int = 1

    @property
    def read(self) -> Tensor:
        """The reader's weights by channel: (outputs, C, ...)."""
        weight = self.reader.weight
        return weight.view(len(weight), -1, self.positions) if self.positions > 1 else weight

    def constants(self) -> Tensor:
        """What each channel is where no weight writes it: (C,)."""
        weight, bias = self.writer.weight, self.writer.bias
        value = weight.new_zeros(len(weight)) if bias is None else bias
        maps = value.view(1, -1, 1, 1) if isinstance(self.writer, nn.Conv2d) else value.view(1, -1)
        for module in self.between:
            maps = module(maps)
        return maps.flatten()

    def keep(self, channels: Tensor) -> None:
        """Leave only these channels, given by index."""
        read = self.read[:, channels]
        flat = isinstance(self.reader, nn.Linear)
        self.reader.weight = nn.Parameter(read.flatten(1) if flat else read)
        self.writer.weight = nn.Parameter(self.writer.weight[channels])
        if self.writer.bias is not None:
            self.writer.bias = nn.Parameter(self.writer.bias[channels])
        for norm in self.between:
            if isinstance(norm, nn.BatchNorm2d):
                _shrink(norm, channels)
        _state_sizes(self.writer)
        _state_sizes(self.reader)


@torch.no_grad()
def compacted(network: nn.Module, block: int = 1) -> nn.Module:
    """A copy of a network on the CPU without the channels that do nothing, in eval mode.

    Of what a convolution writes, as many channels are left as make a multiple of `block`, or all.
    """
    smaller = copy.deepcopy(network).eval()
    links = list(links_of(smaller))
    # A channel that goes may leave another one unread, or unwritten.
    while any(_without_unread(link, block) or _without_constants(link, block) for link in links):
        pass
    return smaller


def links_of(network: nn.Module) -> Iterator[Link]:
    """Every set of channels of a network that may shrink by itself."""
    if isinstance(network, MLP):
        layers = [m for m in network.hidden if isinstance(m, nn.Linear)]
        for writer, reader in zip(layers, [*layers[1:], network.classifier], strict=True):
            yield Link(writer, (nn.ReLU(),), reader)
    elif isinstance(network, VGGLike | VGG16):
        yield from _links_of_vgg(network)
    else:
        yield from _links_of_blocks(network)


def _links_of_vgg(network: VGGLike | VGG16) -> Iterator[Link]:
    modules = list(network.features)
    places = [k for k, module in enumerate(modules) if isinstance(module, nn.Conv2d)]
    for place, after in zip(places, [*places[1:], None], strict=True):
        writer, *between = modules[place : place + 3]
        assert isinstance(writer, nn.Conv2d)
        reader = network.classifier if after is None else modules[after]
        assert isinstance(reader, nn.Conv2d | nn.Linear)
        positions = 1
        if after is None and isinstance(network, VGGLike):
            positions = int(network.pool.output_size) ** 2  # type: ignore[arg-type]
        yield Link(writer, tuple(between), reader, positions)


def _links_of_blocks(network: nn.Module) -> Iterator[Link]:
    """The channels inside the blocks of the paper's ResNet-18."""
    for block in network.modules():
        if isinstance(block, BasicBlock):
            yield Link(block.conv1, (block.bn1, block.relu1), block.conv2)


def _without_unread(link: Link, block: int) -> bool:
    """Leave out the channels that no weight reads; say whether there were any."""
    return _leave_out(link, ~_any(link.read.transpose(0, 1)), block)


def _without_constants(link: Link, block: int) -> bool:
    """Leave out the channels that no weight writes; say whether there were any."""
    idle, values = ~_any(link.writer.weight), link.constants()
    if isinstance(link.reader, nn.Linear):
        added = link.read[:, idle] * _beside(values[idle], link.read)
        link.reader.bias.add_(added.flatten(1).sum(1))
        link.read[:, idle] = 0
        return _leave_out(link, idle, block)
    if int(idle.count_nonzero()) < 2:
        return False
    # The largest stands for all, so that their shares of it are no more than 1.
    chosen = int((values.abs() * idle).argmax())
    idle[chosen] = False
    if values[chosen] != 0:
        shares = _beside(values[idle] / values[chosen], link.read)
        link.read[:, chosen].add_((link.read[:, idle] * shares).sum(1))
    link.read[:, idle] = 0  # some of them may stay
    return _leave_out(link, idle, block)


def _leave_out(link: Link, useless: Tensor, block: int) -> bool:
    """Leave out channels by mask, but for those that fill a convolution's last block, and for one
    where a layer would be left with none."""
    least = max(1, int((~useless).count_nonzero()))
    if isinstance(link.writer, nn.Conv2d):
        least = min(len(useless), math.ceil(least / block) * block)
    kept = useless.to(torch.int8).argsort(stable=True)[:least].sort().values
    if len(kept) == len(useless):
        return False
    link.keep(kept)
    return True


def _any(weights: Tensor) -> Tensor:
    """Which of the rows of (C, ...) hold a weight that is not 0: bool (C,)."""
    return weights.flatten(1).any(1)


def _beside(values: Tensor, weights: Tensor) -> Tensor:
    """(C,) so that it multiplies the channels of (outputs, C, ...)."""
    return values.view(1, -1, *[1] * (weights.dim() - 2))


def _shrink(norm: nn.BatchNorm2d, channels: Tensor) -> None:
    norm.weight, norm.bias = nn.Parameter(norm.weight[channels]), nn.Parameter(norm.bias[channels])
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean, norm.running_var = norm.running_mean[channels], norm.running_var[channels]
    norm.num_features = len(channels)


def _state_sizes(layer: Layer) -> None:
    """Make a layer say the sizes that its weights have."""
    outputs, inputs = layer.weight.shape[:2]
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = outputs, inputs
    else:
        layer.out_features, layer.in_features = outputs, inputs


def fit_to(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the layers of a network the numbers of channels that its compacted `tensors` have."""
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
            _state_sizes(module)
