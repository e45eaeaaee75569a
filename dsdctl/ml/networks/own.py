"""Networks of a user's own, which draw from torch's global generator, built from a seed."""

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dsdctl.errors import WorkError
from dsdctl.ml.randomness import stream_seed

_GLOBAL_GENERATORS = threading.Lock()
"""Held while a network draws from torch's global generators, which all threads share."""


def build_own(
    make: Callable[..., Any],
    in_channels: int,
    classes: int,
    options: Mapping[str, Any],
    *,
    seed: int,
    level: int = 0,
) -> nn.Module:
    """The network of `make(in_channels, classes, **options)`, channels-last, with the initial
    weights of (`seed`, `level`).

    It draws them from torch's global generator, which is seeded before and restored after.
    Raises what `make` raises, and WorkError if it returns no module or one with lazy parameters.
    """
    with _GLOBAL_GENERATORS, torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("initialisation", seed, level))
        network = make(in_channels, classes, **options)
    if not isinstance(network, nn.Module):
        raise WorkError(f"it gives a {type(network).__name__}, not an nn.Module")
    for name, parameter in network.named_parameters():
        if torch.nn.parameter.is_lazy(parameter):
            raise WorkError(f"{name} has no shape yet (allowed: modules that are not lazy)")
        # The optimizer works on flat views in the order of memory, so that gaps are not allowed.
        if not _is_dense(parameter):
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _is_dense(tensor: Tensor) -> bool:
    """Whether the values of a tensor, in any order, fill its part of memory without gaps."""
    return torch.empty_like(tensor).stride() == tensor.stride()


@contextmanager
def seeded_training(seed: int, level: int, epoch: int) -> Iterator[None]:
    """Seed the global generators of torch, numpy and `random`, which dropout and the like use.

    One thread at a time is within, since all threads share these generators.
    """
    with _GLOBAL_GENERATORS:
        number = stream_seed("training", seed, level, epoch)
        torch.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)
        yield
