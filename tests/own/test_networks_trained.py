"""A network of one's own from its initial weights to the level that it yields."""

import importlib
import json
import random
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from builders import write
from own_networks import (
    BLOCKS,
    HEADER,
    NET,
    only,
    place,
    planned,
    question,
    spec,
    task,
    weights,
    write_net,
)
from torch import nn

from dsdctl.errors import InputError, StoppedError, WorkError
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.randomness import stream_seed
from dsdctl.ml.update import make_update
from dsdctl.own.source import Source, write_source
from dsdctl.store.store import Store
from dsdctl.worker.level import run_task
from dsdctl.worker.networks import new_network
from dsdctl.worker.tasks import LevelTask

pytestmark = pytest.mark.usefixtures("one_deterministic_thread")


def test_initial_weights_are_a_function_of_seed_and_level(tmp_path: Path) -> None:
    write_net(tmp_path)
    setup = only(planned(tmp_path)).setup
    assert setup.own is not None
    source, before = setup.own.source, torch.random.get_rng_state()

    def built(seed: int, level: int) -> nn.Module:
        return new_network(setup.network, (8, 8, 1), 10, seed, level, source=source)

    network = built(3, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed("initialisation", 3, 1))
        expected = [nn.Conv2d(1, 3, 3).weight, nn.Linear(3, 10).weight]
    found = [network.features[0].weight, network.head.weight]  # type: ignore[union-attr, index]
    assert all(map(torch.equal, found, expected))
    for other in ((4, 1), (3, 2)):
        assert not torch.equal(built(*other).head.weight, expected[1])  # type: ignore[union-attr, arg-type]


def test_weights_with_gaps_in_memory_are_trained_as_any_others(tmp_path: Path) -> None:
    """The optimizer works on flat views in the order of memory, which gaps would shift."""
    text = HEADER + (
        "class Net(nn.Module):\n"
        "    def __init__(self, c, k):\n"
        "        super().__init__()\n"
        "        self.head = nn.Linear(64, k)\n"
        "        self.scale = nn.Parameter(torch.ones(k, 2)[:, 0])\n"
        "    def forward(self, x): return self.head(x.flatten(1)) * self.scale\n"
    )
    asked = question(tmp_path, text)
    network = new_network(asked.network, (8, 8, 1), 10, source=asked.source)
    settings = Settings(1, 4, 0.1, 0.0, 0.0, (), 1.0, "fp32")
    (gradient,) = torch.autograd.grad(network(torch.ones(4, 1, 8, 8)).sum(), network.scale)
    expected = network.scale.detach() - 0.1 * gradient
    make_update(network, None, settings).step(network(torch.ones(4, 1, 8, 8)).sum())
    torch.testing.assert_close(network.scale.detach(), expected)


def test_a_worker_refuses_code_that_changed_since_the_plan(tmp_path: Path) -> None:
    write_net(tmp_path)
    planned_task = task(only(planned(tmp_path)))
    write(tmp_path / "blocks.py", BLOCKS + "#\n")
    with pytest.raises(WorkError, match=r"nets\.py: changed since the run was planned"):
        run_task(planned_task, place(tmp_path / "store"))


def test_a_level_keeps_its_code_and_is_loaded_without_the_file(tmp_path: Path) -> None:
    write_net(tmp_path)
    work = task(only(planned(tmp_path)))
    level = run_task(work, place(tmp_path / "store")).level
    assert level is not None
    (tmp_path / "nets.py").unlink()
    source = Store(tmp_path / "store").levels.source(level.key)
    assert isinstance(source, Source)
    network = new_network(work.identity.network, (8, 8, 1), 10, source=source)
    network.load_state_dict(weights(tmp_path / "store"))


def test_a_lost_file_is_written_back_and_none_overwritten(
    tmp_path: Path, dsdctl: Callable[..., Any]
) -> None:
    write_net(tmp_path)
    trajectory = only(planned(tmp_path))
    level = run_task(task(trajectory), place(tmp_path / "store")).level
    assert level is not None
    line = ("store", "source", level.key[:8], "back", "--store", "store")
    done = dsdctl(*line)
    assert (done.returncode, done.stdout) == (0, "wrote back/blocks.py\nwrote back/nets.py\n")
    assert done.stderr == "a spec beside them names it `arch: nets.py:Net`\n"
    for name in ("nets.py", "blocks.py"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / name).read_bytes()
    write(tmp_path / "back" / "nets.py", "mine")
    (tmp_path / "back" / "blocks.py").unlink()
    refused = dsdctl(*line)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "back/nets.py: already exists, nothing was written\n"
    assert [file.name for file in (tmp_path / "back").iterdir()] == ["nets.py"]


def test_a_level_without_code_of_ones_own_keeps_none(
    tmp_path: Path, dsdctl: Callable[..., Any]
) -> None:
    changes = {"student": {"arch": "mlp", "hidden": [3]}}
    level = run_task(task(only(planned(tmp_path, changes))), place(tmp_path / "store")).level
    assert level is not None
    for key, reason in ((level.key, "keeps no code"), ("xyz", "0 levels and tables have a key")):
        refused = dsdctl("store", "source", key, "back", "--store", "store")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert reason in refused.stderr and refused.stderr.count("\n") == 1
    assert not (tmp_path / "back").exists()


def test_code_of_a_store_stays_in_the_folder(tmp_path: Path) -> None:
    for path in ("../out.py", "/tmp/out.py"):
        with pytest.raises(InputError, match="outside of"):
            write_source(Source("", path, "Net", False, {path: b""}), tmp_path / "back")
    assert list(tmp_path.iterdir()) == []


DROPOUT = NET.replace("self.head = ", "self.drop = nn.Dropout(0.5)\n        self.head = ").replace(
    "self.head(self.features(images).mean((2, 3)))",
    "self.head(self.drop(self.features(images).mean((2, 3))))",
)


SCALED = "import numpy\nimport random\n" + NET.replace(
    "self.features(images)",
    "(self.features(images) * (1 + {} * self.training))",
)


@pytest.mark.parametrize(
    "text",
    [DROPOUT, SCALED.format("random.random()"), SCALED.format("float(numpy.random.rand())")],
    ids=["torch", "random", "numpy"],
)
def test_what_is_drawn_is_the_same_whatever_was_drawn_before(tmp_path: Path, text: str) -> None:
    write_net(tmp_path, text)
    trajectory = only(planned(tmp_path))
    assert trajectory.setup.draws
    work = task(trajectory)
    for seed in (1, 2):
        for seeded in (torch.manual_seed, numpy.random.seed, random.seed):
            seeded(seed)
        run_task(work, place(tmp_path / f"store{seed}"))
    one, other = (weights(tmp_path / f"store{seed}") for seed in (1, 2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_dropout_is_the_same_after_an_interruption(tmp_path: Path) -> None:
    write_net(tmp_path, DROPOUT)
    work = task(only(planned(tmp_path, {"training.epochs": 3})))
    run_task(work, place(tmp_path / "whole"))
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        run_task(work, place(tmp_path / "parts"), lambda: next(asked))
    torch.manual_seed(5)
    run_task(work, place(tmp_path / "parts"))
    one, other = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_levels_at_once_in_one_process_draw_as_each_alone(tmp_path: Path) -> None:
    write_net(tmp_path, DROPOUT)
    plan = planned(tmp_path, {"training.epochs": 3, "seeds": [0, 1]})
    works = [task(trajectory) for trajectory in plan.trajectories.values()]
    alone, at_once = place(tmp_path / "alone"), place(tmp_path / "at-once")
    for work in works:
        run_task(work, alone)
    with ThreadPoolExecutor(len(works)) as pool:
        list(pool.map(lambda work: run_task(work, at_once), works))
    assert _weights_of_all(tmp_path / "alone") == _weights_of_all(tmp_path / "at-once")


def _weights_of_all(store: Path) -> dict[str, bytes]:
    files = store.glob("levels/*/*/weights.safetensors")
    return {file.parent.name: file.read_bytes() for file in files}


def test_without_activations_the_entropy_is_of_no_layer(tmp_path: Path) -> None:
    write_net(tmp_path)
    write(tmp_path / "blocks.py", BLOCKS.replace(", nn.ReLU()", ""))
    level = run_task(task(only(planned(tmp_path))), place(tmp_path / "store")).level
    assert level is not None and level.measured is not None
    assert level.measured.entropy_bits == 0
    assert level.measured.entropy_bits_per_layer == {}
    assert "no ReLU or GELU module seen: entropy of 0 layers" in level.measured.warnings


# The commands


def test_what_synflow_asks_of_a_network_is_said_where_it_refuses(tmp_path: Path) -> None:
    """Scores are computed in float64, and the tensors that this one makes are of float32."""
    write_net(tmp_path, NET.replace("mean((2, 3))", "mean((2, 3)) @ torch.eye(3)"))
    trajectory = only(planned(tmp_path, {"pruning.criterion": "synflow"}))
    level = run_task(task(trajectory), place(tmp_path / "store")).level
    assert level is not None
    identity = trajectory.level_identity(1, level.key, None)
    work = LevelTask(identity=identity, dataset_path=".", source=trajectory.setup.source)
    with pytest.raises(WorkError, match=r"level 1: synflow runs .* float64, .*: expected .* dtype"):
        run_task(work, place(tmp_path / "store"))


def test_only_who_computes_runs_the_code(tmp_path: Path, dsdctl: Callable[..., Any]) -> None:
    mark = f"open({str(tmp_path / 'was-run')!r}, 'a').write('x')\nprint('noise')\n"
    write_net(tmp_path, NET + mark)
    file = spec(tmp_path)

    def said(*arguments: object) -> str:
        done = dsdctl(*arguments)
        assert done.returncode == 0, done.stderr
        return str(done.stderr)

    said("validate", file)
    assert not (tmp_path / "was-run").exists()
    first = dsdctl("plan", file, "--json")
    assert first.stderr.count("runs code from") == 1
    plan = json.loads(first.stdout)
    assert plan["trajectories"][0]["arch"] == "Net"
    assert (tmp_path / "was-run").read_text() == "x"
    assert "runs code" not in said("plan", file)
    assert not (tmp_path / "dsdctl-store").exists()
    assert said("run", file).count("runs code from") == 1
    ran = (tmp_path / "was-run").read_text()
    shutil.rmtree(tmp_path / "cache")
    report = json.loads(dsdctl("report", file, "--format", "json").stdout)
    assert report["complete"]
    assert "parameters are no weights of Conv2d and Linear layers" in report["networks"][0]
    said("status", file)
    assert (tmp_path / "was-run").read_text() == ran


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("images * (2 if float(images.sum()) > 0 else 1)", "torch.onnx refuses it (GuardOnData"),
        ("torch.special.bessel_j0(images)", "torch.onnx refuses it (DispatchError: No ONNX"),
        ("images * (0 if torch.compiler.is_exporting() else 1)", "model.onnx: a logit is off by "),
    ],
    ids=["control flow", "operator", "another network"],
)
def test_what_onnx_refuses_is_exported_without_it(
    tmp_path: Path, dsdctl: Callable[..., Any], change: str, reason: str
) -> None:
    pytest.importorskip("onnxscript")
    write_net(tmp_path, NET.replace("self.features(images)", f"self.features({change})"))
    trajectory = only(planned(tmp_path, {"pruning.levels": 0}))
    assert run_task(task(trajectory), place(tmp_path / "store")).level is not None
    line = ("export", tmp_path / "spec.yaml", "--recipe", "vanilla", "--no-latency")
    done = dsdctl(*line, "--store", "store", "--output", "out")
    assert done.returncode == 3
    (error,) = done.stderr.splitlines()[-1:]
    assert error.startswith(f"error: no ONNX: {reason}")
    assert error.endswith("; the other files are written")
    assert "def forward" not in done.stderr
    files = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"README.md", "model.safetensors", "compact.safetensors"} <= files
    assert not [name for name in files if name.endswith(".onnx")]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "No ONNX: " in card and "onnxruntime.InferenceSession" not in card


@pytest.mark.long
@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224"])
def test_networks_of_timm_are_pruned(tmp_path: Path, model: str) -> None:
    importlib.import_module("dsdctl.system.torchvision")
    timm = pytest.importorskip("timm")
    text = (
        "import timm\n\n\ndef Net(channels, classes, name):\n"
        "    size = {'img_size': 8, 'patch_size': 4} if name.startswith('vit') else {}\n"
        "    return timm.create_model(name, pretrained=False, in_chans=channels,"
        " num_classes=classes, **size)\n"
    )
    write(tmp_path / "nets.py", text)
    changes = {"student": {"arch": "nets.py:Net", "options": {"name": model}}}
    trajectory = only(planned(tmp_path, {**changes, "training.batch_size": 400}))
    level = run_task(task(trajectory), place(tmp_path / "store")).level
    assert level is not None and level.measured is not None
    assert level.environment.packages == (f"timm {timm.__version__}",)
    assert level.measured.entropy_bits > 0
