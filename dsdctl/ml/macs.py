"""Counting multiply-accumulates with fvcore, by the paper's convention."""

import copy
import logging
import warnings
from typing import NamedTuple

import torch
from torch import nn

from dsdctl.ml.masks import prunable_weights

PRODUCTS = {
    "aten::scaled_dot_product_attention": "attention in one operator",
    "aten::_native_multi_head_attention": "attention in one operator",
    "aten::lstm": "LSTMs",
    "aten::gru": "GRUs",
}
"""Operators whose many multiply-accumulates fvcore does not count, and their names in messages."""


class MacCount(NamedTuple):
    """MACs of one image's forward pass: the total, and each prunable layer's by its weight's name.

    `left_out` are the operators of PRODUCTS that the network uses, and whose MACs are missing.
    """

    total: int
    per_layer: dict[str, int]
    left_out: tuple[str, ...]


def count_macs(network: nn.Module, channels: int, height: int, width: int) -> MacCount:
    """MACs of one image's forward pass in train mode, which is the paper's convention.

    fvcore calls one MAC one "flop", and counts BatchNorm and pooling too. A deep copy is counted,
    since a forward pass in train mode updates BatchNorm's statistics. The count is half that of a
    batch of two, since BatchNorm cannot train on one image whose maps are 1x1.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"`torch\.jit\.script` is deprecated", category=DeprecationWarning
        )
        from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    network = copy.deepcopy(network).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of its deprecation, not of the count
        analysis = FlopCountAnalysis(network, torch.zeros(2, channels, height, width))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        per_module = analysis.by_module()
        left_out = [name for name in PRODUCTS if name in analysis.unsupported_ops()]
    layers = {
        name: per_module[name.removesuffix(".weight")] // 2 for name in prunable_weights(network)
    }
    return MacCount(per_module[""] // 2, layers, tuple(left_out))
