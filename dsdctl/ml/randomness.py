"""Random streams that depend on names and numbers, never on global state.

Every draw (order of an epoch, augmentation, initialization, label noise, splits) comes from
its own stream, so an interrupted run draws what an uninterrupted one would have drawn.
"""

import hashlib

import torch


def stream_seed(purpose: str, *indices: int) -> int:
    """Return a seed in [0, 2**63) that is a pure function of `purpose` and `indices`."""
    text = "/".join([purpose, *map(str, indices)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(purpose: str, *indices: int) -> torch.Generator:
    """Return a CPU generator at the start of the stream named by `purpose` and `indices`."""
    return torch.Generator().manual_seed(stream_seed(purpose, *indices))
