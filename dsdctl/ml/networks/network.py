"""The base class of dsdctl's networks, and the links by which their channels can be removed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Link:
    """The C channels that `writer` writes and, after the modules `between`, `reader` reads.

    `positions` is how many of the reader's inputs belong to each channel: 1, or the pixels of a map
    that a Linear layer reads flattened.
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
        """The value that each channel has if no weight writes it: (C,). Calls `between`."""
        weight, bias = self.writer.weight, self.writer.bias
        value = weight.new_zeros(len(weight)) if bias is None else bias
        maps = value.view(1, -1, 1, 1) if isinstance(self.writer, nn.Conv2d) else value.view(1, -1)
        for module in self.between:
            maps = module(maps)
        return maps.flatten()

    def keep(self, channels: Tensor) -> None:
        """Remove all channels but these, int64 indices in the order that they are to have."""
        read = self.read[:, channels]
        flat = isinstance(self.reader, nn.Linear)
        self.reader.weight = nn.Parameter(read.flatten(1) if flat else read)
        self.writer.weight = nn.Parameter(self.writer.weight[channels])
        if self.writer.bias is not None:
            self.writer.bias = nn.Parameter(self.writer.bias[channels])
        for norm in self.between:
            if isinstance(norm, nn.BatchNorm2d):
                _shrink(norm, channels)
        state_sizes(self.writer)
        state_sizes(self.reader)


class Network(nn.Module):
    """Base class: from images (B, C, H, W) to logits (B, K).

    Each ReLU and GELU is a module, so that the entropy of its units can be measured.
    """

    def initialize(self, stream: torch.Generator) -> None:
        """Draw all weights from `stream`."""
        raise NotImplementedError

    def links(self) -> Iterator[Link]:
        """Every set of channels that can be removed independently of others; by default none."""
        return iter(())


def links_in_a_row(
    features: nn.Sequential, classifier: nn.Linear, positions: int = 1
) -> Iterator[Link]:
    """The channels of each convolution of `features`, with its two modules BatchNorm and ReLU.

    The next convolution reads them; the last one's are read by the classifier, with `positions`
    inputs per channel.
    """
    modules = list(features)
    places = [k for k, module in enumerate(modules) if isinstance(module, nn.Conv2d)]
    readers = [*(modules[place] for place in places[1:]), classifier]
    for place, reader in zip(places, readers, strict=True):
        writer, *between = modules[place : place + 3]
        assert isinstance(writer, nn.Conv2d) and isinstance(reader, nn.Conv2d | nn.Linear)
        yield Link(writer, tuple(between), reader, positions if reader is classifier else 1)


def _shrink(norm: nn.BatchNorm2d, channels: Tensor) -> None:
    norm.weight, norm.bias = nn.Parameter(norm.weight[channels]), nn.Parameter(norm.bias[channels])
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean, norm.running_var = norm.running_mean[channels], norm.running_var[channels]
    norm.num_features = len(channels)


def state_sizes(layer: Layer) -> None:
    """Set a layer's size attributes to the sizes of its weights."""
    outputs, inputs = layer.weight.shape[:2]
    if isinstance(layer, nn.Conv2d):
        layer.out_channels, layer.in_channels = outputs, inputs
    else:
        layer.out_features, layer.in_features = outputs, inputs
