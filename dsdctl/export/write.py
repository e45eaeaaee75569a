"""`dsdctl export`: load the chosen network, compact it, check both, write everything at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dsdctl.data.prepare import Files, fallback_folder
from dsdctl.errors import InputError, WorkError
from dsdctl.export.as_onnx import BATCH, OPSET, onnx_bytes, run_onnx, without_onnx
from dsdctl.export.card import Check, Counts, Exported, model_card
from dsdctl.export.chosen import Chosen
from dsdctl.export.load import architecture
from dsdctl.export.speed import latencies
from dsdctl.ml.compact import compacted, links_of
from dsdctl.ml.macs import count_macs
from dsdctl.ml.masks import prunable_weights
from dsdctl.store.folders import tensor_bytes, write_folder
from dsdctl.store.store import Store
from dsdctl.worker.inputs import load_data, measuring_normalization
from dsdctl.worker.starting_point import stored_network

CHECKED = 1000
"""Test images, the first ones, on which the files are compared with the network in the store."""

BLOCK = 16
"""Channels that runtimes compute at once: of which convolutions keep a multiple."""

TOLERANCE = 1e-4
"""How far a logit may be off, as a share of the largest one."""


@dataclass(frozen=True)
class Batch:
    """Real test images, normalized: float32 (N, C, H, W), and their labels (N,)."""

    images: Tensor
    labels: Tensor


def export(
    chosen: Chosen, store: Store, folder: Path, block: int = BLOCK, *, timed: bool = True
) -> Exported:
    """Write the network's files into a new `folder`, those in ONNX where that is installed and
    takes the network; convolutions of the compacted network keep multiples of `block` channels.
    Where they are not `timed`, equal networks give equal bytes.

    Raises InputError where `folder` is there already or cannot be written, WorkError where the
    compacted network does not compute what the whole one does. Either way nothing is written.
    """
    if folder.exists():
        raise InputError(f"--output: {folder}: already exists")
    batch = _test_images(chosen, store)
    whole = _network(chosen, store)
    smaller = compacted(whole, block)
    facts, both = _facts(chosen), {"model": whole, "compact": smaller}
    logits = _logits(whole, batch.images)
    onnx = _onnx(both, facts, batch, logits)
    checks = [_check("compact.safetensors", _logits(smaller, batch.images), logits, batch)]
    files = {**onnx.files} | {
        f"{name}.safetensors": tensor_bytes(network.state_dict(), facts)
        for name, network in both.items()
    }
    # Where nothing was removed, both are one.
    names = ["model", "compact"][: 1 + (_parameters(whole) > _parameters(smaller))]
    networks = [whole, smaller][: len(names)]
    models = [files[f"{name}.onnx"] for name in names if f"{name}.onnx" in files]
    exported = Exported(
        checks=(*checks, *onnx.checks),
        refused=onnx.refused,
        bytes_of={name: len(files[name]) for name in sorted(files, reverse=True)},
        whole=_counts(whole, batch),
        compact=_counts(smaller, batch),
        block=block,
        linked=any(True for _ in links_of(whole)),
        latencies=tuple(latencies(networks, models, batch.images)) if timed else (),
    )
    card = model_card(chosen, exported)
    try:
        write_folder(folder, {**files, "README.md": card.encode()})
    except OSError as error:
        raise InputError(f"--output: {folder}: {error.strerror or error}") from error
    return exported


@dataclass(frozen=True)
class _Onnx:
    """Files in ONNX and how they compare, or why there are none of a network that was tried."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    refused: str = ""


def _onnx(
    networks: Mapping[str, nn.Module], facts: Mapping[str, str], batch: Batch, logits: Tensor
) -> _Onnx:
    """Networks in ONNX, where that is installed; not every network of a user's own can be."""
    if without_onnx() is not None:
        return _Onnx()
    files, checks = {}, []
    try:
        for name, network in networks.items():
            file = f"{name}.onnx"
            files[file] = onnx_bytes(network, batch.images.shape[1:], facts)
            checks.append(_check(file, run_onnx(files[file], batch.images), logits, batch))
    except WorkError as error:
        return _Onnx(refused=str(error))
    return _Onnx(files, tuple(checks))


def _counts(network: nn.Module, batch: Batch) -> Counts:
    channels, height, width = batch.images.shape[1:]
    weights = prunable_weights(network).values()
    return Counts(
        parameters=_parameters(network),
        weights=sum(weight.numel() for weight in weights),
        nonzero=sum(int(weight.count_nonzero()) for weight in weights),
        macs=count_macs(network, channels, height, width)[0],
    )


def _test_images(chosen: Chosen, store: Store) -> Batch:
    """The first test images as they are measured on."""
    files = Files(chosen.trajectory.setup.images.path, fallback_folder(store.root))
    identity = chosen.identity
    data = load_data(identity.images, identity.noise, files, torch.device("cpu"))
    first = torch.arange(min(CHECKED, len(data.test)))
    pixels = data.test.images[first]
    normalized = measuring_normalization(identity.images)(pixels)
    return Batch(normalized.contiguous(), data.test.labels[first])


def _network(chosen: Chosen, store: Store) -> nn.Module:
    facts, key = chosen.trajectory.setup.images.facts, chosen.level.key
    return stored_network(store, key, facts.shape, facts.classes, key)


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(part) for part in torch.split(images, BATCH)])


def _check(name: str, logits: Tensor, expected: Tensor, batch: Batch) -> Check:
    """Compare a file's logits with the network's. Raises WorkError where they are others."""
    difference = float((logits - expected).abs().max())
    largest = float(expected.abs().max())
    if not difference <= TOLERANCE * max(1.0, largest):
        raise WorkError(f"{name}: a logit is off by {difference:.2g} (largest {largest:.2g})")
    correct = int((logits.argmax(1) == batch.labels).count_nonzero())
    same = int((logits.argmax(1) == expected.argmax(1)).count_nonzero())
    return Check(name, len(logits), difference, largest, same, correct)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _facts(chosen: Chosen) -> dict[str, str]:
    """What each file says of itself."""
    normalize, facts = chosen.identity.images.normalize, chosen.trajectory.setup.images.facts
    return {
        **architecture(chosen.identity, facts.shape, facts.classes),
        "experiment": chosen.row_plan.experiment,
        "recipe": chosen.row_plan.row.recipe.recipe,
        "seed": str(chosen.trajectory.seed),
        "level": str(chosen.result.level),
        "key": chosen.level.key,
        "opset": str(OPSET),
        "mean": ", ".join(map(str, normalize.mean)),
        "std": ", ".join(map(str, normalize.std)),
    }
