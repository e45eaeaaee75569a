"""Exported files are loaded as the networks that were written, whole or compacted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import only_trajectory

import dsdctl
from dsdctl.errors import InputError
from dsdctl.export.load import architecture
from dsdctl.ml.compact import compacted, links_of
from dsdctl.store.folders import tensor_bytes
from dsdctl.worker.networks import new_network

SHAPE = (16, 16, 3)


def written(folder: Path, student: dict[str, Any]) -> tuple[torch.nn.Module, Path]:
    """A compacted network, of which every other channel was idle, and its file."""
    identity = only_trajectory(folder, {"student": student}).level_identity(0, None, None)
    network = new_network(identity.network, SHAPE, 5)
    with torch.no_grad():
        for link in links_of(network):
            link.writer.weight[::2] = 0
    smaller = compacted(network)
    file = folder / "compact.safetensors"
    file.write_bytes(tensor_bytes(smaller.state_dict(), architecture(identity, SHAPE, 5)))
    return smaller, file


@pytest.mark.parametrize(
    "student",
    [
        {"arch": "vgg-like", "depth": 2, "width": 4, "pool": 2},
        {"arch": "mlp", "hidden": [6, 8]},
        pytest.param({"arch": "resnet18"}, marks=pytest.mark.long),
        {"arch": "vit", "patch": 4, "dim": 8, "heads": 2, "depth": 1, "mlp_dim": 8},
    ],
    ids=lambda student: student["arch"],
)
def test_a_compacted_network_computes_the_same_when_loaded(
    student: dict[str, Any], tmp_path: Path
) -> None:
    smaller, file = written(tmp_path, student)
    loaded = dsdctl.load(file)
    tensors = smaller.state_dict()
    assert loaded.state_dict().keys() == tensors.keys()
    assert all(torch.equal(x, tensors[name]) for name, x in loaded.state_dict().items())
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        torch.testing.assert_close(loaded.double()(images), smaller.double()(images))
    described = [str(module) for module in loaded.modules() if not list(module.children())]
    assert described == [str(m) for m in smaller.modules() if not list(m.children())]
    assert not loaded.training


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    _, file = written(tmp_path, {"arch": "mlp", "hidden": [6]})
    plain = tmp_path / "plain.safetensors"
    plain.write_bytes(tensor_bytes({"classifier.weight": torch.zeros(2)}))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(file.read_bytes()[:-8])
    for name, reason in (
        ("absent.safetensors", "No such file"),
        ("plain.safetensors", "does not say which network it holds"),
        ("torn.safetensors", "not a whole safetensors file"),
    ):
        with pytest.raises(InputError, match=reason):
            dsdctl.load(tmp_path / name)
