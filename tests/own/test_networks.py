"""A network of one's own, from the spec that names it to the level that it yields."""

import importlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import line_of, only_problem, spec_data, write
from safetensors.torch import load_file
from torch import nn

from dsdctl.cost.ledger import fvcore_macs
from dsdctl.errors import InputError, StoppedError, WorkError
from dsdctl.keys import key_of
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.randomness import stream_seed
from dsdctl.ml.update import make_update
from dsdctl.own.inspection import Question, cached, keep
from dsdctl.own.source import Source, write_source
from dsdctl.plan.plan import Plan, make_plan
from dsdctl.plan.resolve import resolve
from dsdctl.plan.trajectory import Trajectory
from dsdctl.store.store import Store
from dsdctl.worker.inspection import inspect
from dsdctl.worker.level import run_task
from dsdctl.worker.networks import new_network
from dsdctl.worker.tasks import LevelTask, WorkerConfig

pytestmark = pytest.mark.usefixtures("one_deterministic_thread")

HEADER = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"

NET = (
    HEADER
    + """
from blocks import block


class Net(nn.Module):
    def __init__(self, in_channels, classes, width=3):
        super().__init__()
        self.features = block(in_channels, width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))
"""
)

BLOCKS = (
    HEADER
    + """
def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())
"""
)


def write_net(folder: Path, text: str = NET) -> Path:
    write(folder / "blocks.py", BLOCKS)
    return write(folder / "nets.py", text)


def spec(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    own = {"student": {"arch": "nets.py:Net"}, "training.epochs": 1, "pruning.levels": 1}
    return write(folder / "spec.yaml", spec_data({**own, **(changes or {})}))


def planned(folder: Path, changes: dict[str, Any] | None = None) -> Plan:
    return make_plan([resolve(spec(folder, changes), inspect)])


def only(plan: Plan) -> Trajectory:
    (trajectory,) = plan.trajectories.values()
    return trajectory


def key(folder: Path, **student: Any) -> str:
    found = {"arch": "nets.py:Net", **student}
    return key_of(only(planned(folder, {"student": found})).level_identity(0, None, None))


def question(folder: Path, text: str, **options: Any) -> Question:
    write_net(folder, text)
    changes = {"student": {"arch": "nets.py:Net", "options": options}}
    own = only(make_plan([resolve(spec(folder, changes), lambda _: None)])).setup.own
    assert own is not None
    return own.question


# Identity


def test_its_key_is_what_its_code_and_its_options_say(tmp_path: Path) -> None:
    write_net(tmp_path / "one")
    write_net(tmp_path / "two")
    base = key(tmp_path / "one")
    assert key(tmp_path / "two") == base
    shutil.copy(tmp_path / "two" / "nets.py", tmp_path / "two" / "other.py")
    assert key(tmp_path / "two", arch="other.py:Net") == base
    assert key(tmp_path / "two", arch=f"{tmp_path}/one/nets.py:Net") == base
    assert key(tmp_path / "two", options={"width": 4}) != base
    write(tmp_path / "two" / "blocks.py", BLOCKS + "# a comment\n")
    assert key(tmp_path / "two") != base


def test_options_have_no_order(tmp_path: Path) -> None:
    write_net(tmp_path, HEADER + "def Net(c, k, a, b): return nn.Conv2d(c, k, 8).append\n")
    write_net(tmp_path, HEADER + "def Net(c, k, a, b): return nn.Sequential(nn.Conv2d(c, k, 8),"
              " nn.Flatten())\n")  # fmt: skip
    assert key(tmp_path, options={"a": 1, "b": 2}) == key(tmp_path, options={"b": 2, "a": 1})


def test_a_version_stands_for_the_code(tmp_path: Path) -> None:
    write_net(tmp_path)
    first, second = key(tmp_path, version="1"), key(tmp_path, version="2")
    assert len({first, second, key(tmp_path)}) == 3
    write_net(tmp_path, NET + "# a comment\n")
    assert key(tmp_path, version="1") == first


def test_no_path_is_in_what_is_hashed(tmp_path: Path) -> None:
    write_net(tmp_path)
    identity = only(planned(tmp_path)).level_identity(0, None, None)
    text = identity.model_dump_json()
    assert str(tmp_path) not in text and "nets.py" not in text
    assert type(identity).model_validate_json(text) == identity


def test_a_recipes_teacher_lies_beside_the_recipe(tmp_path: Path) -> None:
    write_net(tmp_path / "recipes", NET.replace("width=3", "width=5"))
    write_net(tmp_path)
    teacher = {"arch": "nets.py:Net"}
    distill = {"teacher": "dense"}
    mine = {"recipe": "mine", "title": "Mine", "distill": distill, "teacher": teacher}
    write(tmp_path / "recipes" / "mine.yaml", mine)
    changes = {"teacher": {"arch": "nets.py:Net"}, "recipes": ["mine"]}
    found = planned(tmp_path, changes).trajectories.values()
    widths = {t.roles[0]: t.setup.layer_weights["head"] // 10 for t in found}
    assert widths == {"student": 3, "teacher": 5}


# What is found


def test_what_closed_forms_say_of_others_is_counted(tmp_path: Path) -> None:
    write_net(tmp_path)
    setup = only(planned(tmp_path)).setup
    assert setup.own is not None
    found = setup.own.known
    assert found.layers == {"features.0": 27, "head": 30}
    # Weights, biases of both layers, scale and shift of the norm.
    assert found.parameters == 57 + 13 + 6
    assert found.never_pruned == pytest.approx(19 / 76)
    assert (found.has_batchnorm, found.activations, found.draws) == (True, 1, False)
    macs = fvcore_macs(setup)
    assert macs.per_layer == {"features.0.weight": 27 * 36, "head.weight": 30}
    assert macs.total >= 27 * 36 + 30


def test_its_layers_can_be_ignored_by_name_and_its_rounds_are_checked(tmp_path: Path) -> None:
    write_net(tmp_path)
    setup = only(planned(tmp_path, {"pruning.ignore": ["last"]})).setup
    assert setup.ignored_layers == ("head",)
    problem = only_problem(lambda: planned(tmp_path, {"pruning.ignore": ["heads"]}))
    assert "heads is not a layer of the student; did you mean head?" in problem
    problem = only_problem(lambda: planned(tmp_path, {"pruning": {"levels": 60}}))
    assert "for 57 weights" in problem
    problem = only_problem(lambda: planned(tmp_path, {"training.batch_size": 861}))
    assert "leaves a last batch of one" in problem


def test_what_others_lack_is_said(tmp_path: Path) -> None:
    text = HEADER + (
        "class Net(nn.Module):\n"
        "    def __init__(self, c, k):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(64 * c, 64 * c), nn.Linear(64 * c, k)\n"
        "        self.drop = nn.Dropout(0.5)\n"
        "        self.scale = nn.Parameter(torch.ones(1000))\n"
        "    def forward(self, x):\n"
        "        x = F.relu(self.a(F.relu(self.a(x.flatten(1)))))\n"
        "        return self.b(self.drop(x)) * self.scale.mean()\n"
    )
    asked = question(tmp_path, text)
    found = inspect(asked)
    notes = found.notes()
    assert found.macs_per_layer["a.weight"] == 2 * 64 * 64
    assert found.never_pruned == pytest.approx(1074 / (1074 + 64 * 64 + 640))
    assert any("no ReLU or GELU module seen" in note for note in notes)
    assert any("draws random numbers" in note for note in notes)
    assert not found.has_batchnorm


REFUSED = {
    "a constructor": (
        "def Net(c, k):\n    raise ValueError('width must be even')\n",
        r"nets\.py:5: ValueError: width must be even$",
    ),
    "no module": ("def Net(c, k): return [c, k]\n", r"it gives a list, not an nn\.Module"),
    "other logits": (
        "def Net(c, k): return nn.Sequential(nn.Flatten(), nn.Linear(64, k + 1))\n",
        r"it gives \(2, 11\) for 2 images \(allowed: logits \(B, K\) = \(2, 10\)\)",
    ),
    "no tensor": (
        "class Net(nn.Linear):\n    def forward(self, x): return (x,)\n",
        r"it gives a tuple \(allowed: a tensor of logits \(B, K\)\)",
    ),
    "nothing to prune": (
        "def Net(c, k): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))\n",
        "it has no Conv2d or Linear layer",
    ),
    "too small images": (
        "def Net(c, k): return nn.Sequential(nn.Conv2d(c, k, 9), nn.Flatten())\n",
        "it does not take images of 1 x 8 x 8 in training: RuntimeError",
    ),
    "lazy modules": (
        "def Net(c, k): return nn.Sequential(nn.Flatten(), nn.LazyLinear(k))\n",
        r"1\.weight has no shape yet",
    ),
    "shared weights": (
        "class Net(nn.Module):\n"
        "    def __init__(self, c, k):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)\n"
        "        self.b.weight = self.a.weight\n",
        r"a\.weight and b\.weight are one tensor",
    ),
    "computed weights": (
        "def Net(c, k): return nn.Sequential(nn.Flatten(),"
        " nn.utils.parametrizations.weight_norm(nn.Linear(64, k)))\n",
        r"1\.weight is computed from others",
    ),
    "more than tensors": (
        "class Net(nn.Linear):\n"
        "    def __init__(self, c, k): super().__init__(64, k)\n"
        "    def forward(self, x): return super().forward(x.flatten(1))\n"
        "    def get_extra_state(self): return {'steps': 0}\n"
        "    def set_extra_state(self, state): pass\n",
        r"_extra_state in its state_dict is a dict \(allowed: tensors alone\)",
    ),
    "other randomness": (
        "import random\n"
        "def Net(c, k):\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(64, k))\n"
        "    nn.init.constant_(net[1].bias, random.random())\n"
        "    return net\n",
        r"two networks of the same seed differ in 1\.bias",
    ),
    "noise when measured": (
        "class Net(nn.Linear):\n"
        "    def __init__(self, c, k): super().__init__(64, k)\n"
        "    def forward(self, x): return super().forward(x.flatten(1)) + torch.rand(1)\n",
        "in eval mode it gives other logits for the same images",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_one_problem_at_its_line(tmp_path: Path, name: str) -> None:
    text, reason = REFUSED[name]
    write_net(tmp_path, HEADER + text)
    problem = only_problem(lambda: planned(tmp_path))
    file = tmp_path / "spec.yaml"
    assert problem.startswith(f"{file}:{line_of(file, 'nets.py')}: student.arch: ")
    assert re.search(reason, problem)


# Where it runs


def test_without_having_been_looked_at_it_is_valid_and_has_keys(tmp_path: Path) -> None:
    write_net(tmp_path, NET + "raise RuntimeError('was run')\n")
    trajectory = only(make_plan([resolve(spec(tmp_path))]))
    assert len(trajectory.key) == 64
    with pytest.raises(InputError, match="not inspected on this machine yet"):
        fvcore_macs(trajectory.setup)


def test_what_was_found_is_kept_for_the_same_code_and_software(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = question(tmp_path, NET)
    assert cached(asked) is None
    found = inspect(asked)
    keep(asked, found)
    assert cached(asked) == found
    assert list(cached(asked).layers) == list(found.layers)  # type: ignore[union-attr]
    with monkeypatch.context() as patched:
        patched.setattr("dsdctl.__version__", "another")
        assert cached(asked) is None
    assert cached(question(tmp_path, NET + "#\n")) is None


def task(trajectory: Trajectory) -> LevelTask:
    identity = trajectory.level_identity(0, None, None)
    return LevelTask(identity=identity, dataset_path=".", source=trajectory.setup.source)


def place(folder: Path) -> WorkerConfig:
    Store(folder).open_for_writing()
    return WorkerConfig(store=str(folder), device="cpu")


def weights(store: Path) -> dict[str, torch.Tensor]:
    (file,) = store.glob("levels/*/*/weights.safetensors")
    return load_file(file)


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
    assert refused.stderr == "back/nets.py: is there already, nothing was written\n"
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


def test_dropout_is_the_same_whatever_was_drawn_before(tmp_path: Path) -> None:
    write_net(tmp_path, DROPOUT)
    work = task(only(planned(tmp_path)))
    for seed in (1, 2):
        torch.manual_seed(seed)
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


def test_a_rule_that_waits_for_an_entropy_needs_one(tmp_path: Path) -> None:
    write_net(tmp_path)
    changes = {"recipes": ["entropy-early-stop"]}
    planned(tmp_path, changes)
    write(tmp_path / "blocks.py", BLOCKS.replace(", nn.ReLU()", ""))
    problem = only_problem(lambda: planned(tmp_path, changes))
    assert "stop.after: waits for the entropy to fall, but no ReLU or GELU module" in problem


def test_without_activations_the_entropy_is_of_no_layer(tmp_path: Path) -> None:
    write_net(tmp_path)
    write(tmp_path / "blocks.py", BLOCKS.replace(", nn.ReLU()", ""))
    level = run_task(task(only(planned(tmp_path))), place(tmp_path / "store")).level
    assert level is not None and level.measured is not None
    assert level.measured.entropy_bits == 0
    assert level.measured.entropy_bits_per_layer == {}
    assert "no ReLU or GELU module seen: entropy of 0 layers" in level.measured.warnings


# The commands


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
