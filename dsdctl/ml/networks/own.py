"""Networks of a user's own, built from a seed although they know of none."""

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

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
    """What `make` gives with the initial weights of (`seed`, `level`), channels-last.

    It draws them from torch's global generator, which is seeded for it and then as before.
    Raises whatever `make` raises, and WorkError where it gives no module or a lazy one.
    """
    with _GLOBAL_GENERATORS, torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("initialisation", seed, level))
        network = make(in_channels, classes, **options)
    if not isinstance(network, nn.Module):
        raise WorkError(f"it gives a {type(network).__name__}, not an nn.Module")
    for name, parameter in network.named_parameters():
        if torch.nn.parameter.is_lazy(parameter):
            raise WorkError(f"{name} has no shape yet (allowed: modules that are not lazy)")
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


@contextmanager
def seeded_training(seed: int, level: int, epoch: int) -> Iterator[None]:
    """Within, what draws from global generators, as dropout does, depends on these numbers alone.

    The generators are those of torch, numpy and Python's `random`. One thread at a time is within.
    """
    with _GLOBAL_GENERATORS:
        number = stream_seed("training", seed, level, epoch)
        torch.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)
        yield
