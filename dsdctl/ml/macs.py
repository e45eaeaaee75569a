"""Counting multiply-accumulates with fvcore, by the paper's convention."""

import copy
import logging
import warnings

import torch
from torch import nn

from dsdctl.ml.masks import prunable_weights


def count_macs(
    network: nn.Module, channels: int, height: int, width: int
) -> tuple[int, dict[str, int]]:
    """MACs of one image's forward pass in train mode: the total, and each prunable layer's.

    A deep copy is counted, since a forward pass in train mode moves BatchNorm's statistics; a
    batch of two is halved, since batch one fails where a map is 1x1. fvcore calls one MAC one
    "flop" and counts BatchNorm and pooling too.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"`torch\.jit\.script` is deprecated", category=DeprecationWarning
        )
        from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    network = copy.deepcopy(network).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of its own future, not of the count
        analysis = FlopCountAnalysis(network, torch.zeros(2, channels, height, width))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        per_module = analysis.by_module()
    layers = {
        name: per_module[name.removesuffix(".weight")] // 2 for name in prunable_weights(network)
    }
    return per_module[""] // 2, layers
