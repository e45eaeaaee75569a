"""What is forged in a store with a checksum that fits."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from .finished_store import checkpoint, level_1, table


def result_of(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Path]:
    """Change the result of a level, and its checksum."""

    def forge(folder: Path) -> Path:
        result = json.loads((level_1(folder) / "result.json").read_bytes())
        change(result)
        return _put(level_1(folder), "result.json", json.dumps(result).encode())

    return forge


def content_of(
    place: Callable[[Path], Path], name: str, change: Callable[[bytes], bytes]
) -> Callable[[Path], Path]:
    """Change a file of a level or a table, and its checksum."""
    return lambda folder: _put(place(folder), name, change((place(folder) / name).read_bytes()))


def tensors_of(
    place: Callable[[Path], Path], name: str, change: Callable[[dict[str, Tensor]], object]
) -> Callable[[Path], Path]:
    def changed(content: bytes) -> bytes:
        tensors = load(content)
        change(tensors)
        return save(tensors)

    return content_of(place, name, changed)


def checkpoint_of(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """Change a checkpoint, and its digest."""

    def forge(folder: Path) -> Path:
        file = checkpoint(folder)
        content = change(file.read_bytes()[:-32])
        file.write_bytes(content + hashlib.sha256(content + file.name.encode()).digest())
        return file

    return forge


def _put(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    sums = json.loads((folder / "checksums.json").read_bytes())
    sums[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "checksums.json").write_text(json.dumps(sums))
    return folder / name


def _as_identity(key: str, value: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), key: value}).encode()


WEIGHTS, MASKS, TABLE_FILE = "weights.safetensors", "masks.safetensors", "logits.safetensors"
FIRST = "features.0.weight"

FORGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an accuracy": (result_of(lambda r: r.update(test_accuracy=0.999)), "believed"),
    "an accuracy of 730 %": (result_of(lambda r: r.update(test_accuracy=7.3)), "refused"),
    "no number": (result_of(lambda r: r.update(test_accuracy=math.nan)), "refused"),
    "infinite bits": (result_of(lambda r: r.update(entropy_bits=math.inf)), "refused"),
    "a sparsity below 0": (result_of(lambda r: r.update(sparsity=-0.5)), "refused"),
    "another level's number": (result_of(lambda r: r.update(level=7)), "refused"),
    "a word for a number": (result_of(lambda r: r.update(test_accuracy="1")), "refused"),
    "a field too many": (result_of(lambda r: r.update(more=1)), "refused"),
    "no JSON": (content_of(level_1, "result.json", lambda _: b"nonsense"), "refused"),
    "deep JSON": (content_of(level_1, "result.json", lambda _: b"[" * 100_000), "refused"),
    "identity": (content_of(level_1, "identity.json", _as_identity("seed", 9)), "refused"),
    "a table's identity": (
        content_of(table, "identity.json", _as_identity("precision", "bf16")),
        "refused",
    ),
    "an escape in the environment": (
        content_of(level_1, "environment.json", _as_identity("device", "cpu \x1b[2J<b>[red]")),
        "refused",
    ),
    "weights": (tensors_of(level_1, WEIGHTS, lambda w: w[FIRST].add_(1)), "believed"),
    "weights that are no numbers": (
        tensors_of(level_1, WEIGHTS, lambda w: w[FIRST].fill_(math.nan)),
        "stops",
    ),
    "weights of another shape": (
        tensors_of(level_1, WEIGHTS, lambda w: w.update({FIRST: torch.ones(2)})),
        "stops",
    ),
    "weights that are no tensors": (content_of(level_1, WEIGHTS, lambda _: b"none"), "quarantined"),
    "a giant header": (
        content_of(level_1, WEIGHTS, lambda c: (2**40).to_bytes(8, "little") + c[8:]),
        "quarantined",
    ),
    "masks": (tensors_of(level_1, MASKS, lambda m: m[FIRST].fill_(True)), "believed"),
    "no masks": (tensors_of(level_1, MASKS, lambda m: m.clear()), "stops"),
    "a table": (tensors_of(table, TABLE_FILE, lambda t: t["logits"].add_(1)), "believed"),
    "a table of another shape": (
        tensors_of(table, TABLE_FILE, lambda t: t.update(logits=torch.ones(2, 2, 2))),
        "stops",
    ),
    "a checkpoint of nothing": (checkpoint_of(lambda _: b""), "quarantined"),
    "a checkpoint without a header": (checkpoint_of(lambda _: bytes(100)), "quarantined"),
    "a checkpoint of other tensors": (
        checkpoint_of(lambda c: save({"x": torch.ones(2)}, _metadata(c))),
        "stops",
    ),
    "a calibration": (
        lambda folder: _write(folder / "store/calibration.json", {"cpu": {"x": "fast"}}),
        "ignored",
    ),
    "a calibration of lists": (
        lambda folder: _write(folder / "store/calibration.json", {"start_seconds": [1]}),
        "ignored",
    ),
    "a calibration of nothing a second": (
        lambda folder: _write(folder / "store/calibration.json", {"cpu": {"x": 0.0}}),
        "ignored",
    ),
    "a journal of lists": (
        lambda folder: _write(folder / "store/tracking/wandb-offline.json", {"x": [[1]]}),
        "ignored",
    ),
    "jobs that are no names": (
        lambda folder: _write(folder / "store/slurm/jobs.json", {"0" * 64: [1]}),
        "ignored",
    ),
}
"""What is forged with a checksum that fits, and what comes of it: `believed`; `refused` at once by
all commands; `quarantined` or one error, `stops`, by the run that reads it; `ignored`."""


def _metadata(checkpoint: bytes) -> dict[str, str]:
    length = int.from_bytes(checkpoint[:8], "little")
    found: dict[str, str] = json.loads(checkpoint[8 : 8 + length])["__metadata__"]
    return found


def _write(file: Path, value: object) -> Path:
    file.write_text(json.dumps(value))
    return file
