"""A teacher's weights that claim, hide or are what they should not; all are to be refused."""

import json
import pickle
import struct
from collections.abc import Callable
from typing import Any

import torch
from networks import build_network
from safetensors.torch import save

from .odd_archives import Evil


def safetensors(about: dict[str, Any] | bytes, content: bytes = b"", length: int = 0) -> bytes:
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    return struct.pack("<Q", length or len(text)) + text + content


def weights() -> dict[str, torch.Tensor]:
    network = build_network("vgg-like", 1, 3, seed=0, image_size=(8, 8), depth=1, width=4, pool=2)
    return {name: tensor.contiguous() for name, tensor in network.state_dict().items()}


def entry(
    start: int, stop: int, shape: tuple[int, ...] = (1,), kind: str = "F32"
) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, stop]}


def offsets_of_two() -> bytes:
    """The real weights, of which two tensors share their bytes."""
    content = save(weights())
    length = int.from_bytes(content[:8], "little")
    about = json.loads(content[8 : 8 + length])
    names = [name for name, e in about.items() if name != "__metadata__" and e["shape"] == [4]]
    about[names[0]]["data_offsets"] = about[names[1]]["data_offsets"]
    return safetensors(about, content[8 + length :])


WEIGHTS: dict[str, Callable[[], bytes]] = {
    "a header of 2^63": lambda: safetensors({}, length=2**63),
    "a header of 1 TiB": lambda: safetensors({}, length=2**40),
    "a header of 200 MB": lambda: safetensors(b"{" + b" " * 200_000_000 + b"}"),
    "a deep header": lambda: safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "no JSON": lambda: safetensors(b"\xff\xfe{}"),
    "a list": lambda: safetensors(b"[]"),
    "overlapping offsets": lambda: safetensors({"a": entry(0, 4), "b": entry(0, 4)}, bytes(4)),
    "overlapping offsets of the right names": offsets_of_two,
    "offsets beyond the end": lambda: safetensors({"a": entry(0, 2**40, (2**38,))}, bytes(4)),
    "offsets backwards": lambda: safetensors({"a": entry(4, 0)}, bytes(4)),
    "negative offsets": lambda: safetensors({"a": entry(-4, 0)}, bytes(4)),
    "a hole": lambda: safetensors({"a": entry(0, 4), "b": entry(8, 12)}, bytes(12)),
    "a shape that overflows": lambda: safetensors({"a": entry(0, 4, (2**62, 8))}, bytes(4)),
    "10^9 elements claimed": lambda: safetensors({"a": entry(0, 4, (10**9,))}, bytes(4)),
    "an unknown type": lambda: safetensors({"a": entry(0, 4, kind="F999")}, bytes(4)),
    "8-bit floats": lambda: safetensors({"a": entry(0, 4, (4,), "F8_E4M3")}, bytes(4)),
    "a name with an escape": lambda: safetensors({"\x1b[2J": entry(0, 4)}, bytes(4)),
    "metadata that is no text": lambda: safetensors({"__metadata__": {"a": [1]}}),
    "bytes after the end": lambda: save(weights()) + b"more",
    "a pickle": lambda: pickle.dumps(Evil()),
    "no tensors": lambda: save({}),
}
