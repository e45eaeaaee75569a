"""`dsdctl export`: load the chosen network, compact it, check both, write everything at once."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dsdctl.data.prepare import Files, fallback_folder
from dsdctl.errors import InputError, WorkError
from dsdctl.export.as_onnx import BATCH, OPSET, onnx_bytes, run_onnx
from dsdctl.export.card import Check, model_card
from dsdctl.export.chosen import Chosen
from dsdctl.ml.compact import compacted, links_of
from dsdctl.store.folders import tensor_bytes, write_folder
from dsdctl.store.store import Store
from dsdctl.worker.inputs import load_data, measuring_normalisation
from dsdctl.worker.networks import new_network
from dsdctl.worker.starting_point import load_weights

CHECKED = 1000
"""Test images, the first ones, on which the files are compared with the network in the store."""

TOLERANCE = 1e-4
"""How far a logit may be off, as a share of the largest one."""


@dataclass(frozen=True)
class Batch:
    """Real test images, normalised: float32 (N, C, H, W), and their labels (N,)."""

    images: Tensor
    labels: Tensor


def export(chosen: Chosen, store: Store, folder: Path) -> list[str]:
    """Write the network's files into a new `folder`; return a line for each check.

    Raises InputError where `folder` is there already or cannot be written, WorkError where a file
    does not compute what the network does. Either way nothing is written.
    """
    if folder.exists():
        raise InputError(f"--output: {folder}: is already there")
    batch = _test_images(chosen, store)
    network = _network(chosen, store)
    smaller = compacted(network)
    facts, size = _facts(chosen), batch.images.shape[1:]
    files = {
        "model.safetensors": tensor_bytes(network.state_dict(), facts),
        "model.onnx": onnx_bytes(network, size, facts),
        "compact.safetensors": tensor_bytes(smaller.state_dict(), facts),
        "compact.onnx": onnx_bytes(smaller, size, facts),
    }
    logits = _logits(network, batch.images)
    checks = [
        _check("model.onnx", run_onnx(files["model.onnx"], batch.images), logits, batch),
        _check("compact.safetensors", _logits(smaller, batch.images), logits, batch),
        _check("compact.onnx", run_onnx(files["compact.onnx"], batch.images), logits, batch),
    ]
    sizes = {name: len(content) for name, content in files.items()}
    parameters = (_parameters(network), _parameters(smaller))
    linked = any(True for _ in links_of(network))
    card = model_card(chosen, checks, sizes, parameters, linked=linked)
    try:
        write_folder(folder, {**files, "README.md": card.encode()})
    except OSError as error:
        raise InputError(f"--output: {folder}: {error.strerror or error}") from error
    return [check.line for check in checks]


def _test_images(chosen: Chosen, store: Store) -> Batch:
    """The first test images as they are measured on."""
    files = Files(chosen.trajectory.regime.images.path, fallback_folder(store.root))
    identity = chosen.identity
    data = load_data(identity.images, identity.noise, files, torch.device("cpu"))
    first = torch.arange(min(CHECKED, len(data.test)))
    pixels = data.test.images[first]
    normalised = measuring_normalisation(identity.images)(pixels)
    return Batch(normalised.contiguous(), data.test.labels[first])


def _network(chosen: Chosen, store: Store) -> nn.Module:
    facts = chosen.trajectory.regime.images.facts
    source = store.levels.source(chosen.level.key)
    network = new_network(chosen.identity.network, facts.shape, facts.classes, source=source)
    load_weights(network, store.levels.tensors(chosen.level.key, "weights"), chosen.level.key)
    return network.eval()


@torch.no_grad()
def _logits(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(part) for part in torch.split(images, BATCH)])


def _check(name: str, logits: Tensor, expected: Tensor, batch: Batch) -> Check:
    """Compare a file's logits with the network's. Raises WorkError where they are others."""
    difference = float((logits - expected).abs().max())
    largest = float(expected.abs().max())
    if not difference <= TOLERANCE * max(1.0, largest):
        raise WorkError(f"{name}: a logit is off by {difference:.2g} (largest {largest:.2g})")
    right = int((logits.argmax(1) == batch.labels).count_nonzero())
    same = int((logits.argmax(1) == expected.argmax(1)).count_nonzero())
    return Check(name, len(logits), difference, largest, same, right)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _facts(chosen: Chosen) -> dict[str, str]:
    """What each file says of itself."""
    normalize = chosen.identity.images.normalize
    return {
        "experiment": chosen.row_plan.experiment,
        "recipe": chosen.row_plan.row.recipe.recipe,
        "seed": str(chosen.trajectory.seed),
        "level": str(chosen.result.level),
        "key": chosen.level.key,
        "opset": str(OPSET),
        "mean": ", ".join(map(str, normalize.mean)),
        "std": ", ".join(map(str, normalize.std)),
    }
