"""A network of one's own before it is trained: its key, and what is found of it."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import line_of, only_problem, write
from own_networks import BLOCKS, HEADER, NET, only, planned, question, spec, write_net

from dsdctl.cost.ledger import fvcore_macs
from dsdctl.errors import InputError
from dsdctl.keys import key_of
from dsdctl.own.inspection import cached, keep
from dsdctl.plan.plan import make_plan
from dsdctl.plan.resolve import resolve
from dsdctl.worker.inspection import inspect

pytestmark = pytest.mark.usefixtures("one_deterministic_thread")


def key(folder: Path, **student: Any) -> str:
    found = {"arch": "nets.py:Net", **student}
    return key_of(only(planned(folder, {"student": found})).level_identity(0, None, None))


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


def test_a_rule_that_waits_for_an_entropy_needs_one(tmp_path: Path) -> None:
    write_net(tmp_path)
    changes = {"recipes": ["entropy-early-stop"]}
    planned(tmp_path, changes)
    write(tmp_path / "blocks.py", BLOCKS.replace(", nn.ReLU()", ""))
    problem = only_problem(lambda: planned(tmp_path, changes))
    assert "stop.after: waits for the entropy to fall, but no ReLU or GELU module" in problem


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
    "more than tensors": (
        "class Net(nn.Linear):\n"
        "    def __init__(self, c, k): super().__init__(64, k)\n"
        "    def forward(self, x): return super().forward(x.flatten(1))\n"
        "    def get_extra_state(self): return {'steps': 0}\n"
        "    def set_extra_state(self, state): pass\n",
        r"_extra_state in its state_dict is a dict \(allowed: tensors alone\)",
    ),
    "no numbers": (
        "class Net(nn.Linear):\n"
        "    def __init__(self, c, k): super().__init__(64, k)\n"
        "    def forward(self, x): return super().forward(x.flatten(1)) / 0\n",
        "it gives logits that are not finite in training",
    ),
    "draws of its own": (
        "import numpy\n\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, c, k):\n"
        "        super().__init__(64, k)\n"
        "        self.draws = numpy.random.default_rng(0)\n"
        "    def forward(self, x):\n"
        "        x = super().forward(x.flatten(1))\n"
        "        return x * self.draws.random() if self.training else x\n",
        "in training it gives other logits for the same images, weights, buffers and seed",
    ),
    "computed weights": (
        "def Net(c, k): return nn.Sequential(nn.Flatten(),"
        " nn.utils.parametrizations.weight_norm(nn.Linear(64, k)))\n",
        r"1\.weight is computed from others",
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


# What is remembered of it


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
