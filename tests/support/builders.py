"""Small builders that several test files share: specs as data, plans, written-down results."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dsdctl.cost.ledger import Macs
from dsdctl.errors import InputError
from dsdctl.plan.plan import Plan, make_plan
from dsdctl.plan.resolve import resolve
from dsdctl.plan.rows import ResolvedSpec, TrainingSetup
from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import Measured

ROOT = Path(__file__).parents[2]
TABLE1 = ROOT / "specs" / "table1.yaml"

SPEC: dict[str, Any] = {
    "experiment": "small",
    "dataset": {"name": "digits", "test": {"fraction": 0.4}, "validation": {"fraction": 0.2}},
    "label_noise": {"rate": 0.4},
    "student": {"arch": "vgg-like", "depth": 2, "width": 4, "pool": 2},
    "teacher": {"arch": "vgg-like", "depth": 2, "width": 8, "pool": 2},
    "training": {"epochs": 4, "batch_size": 100},
    "pruning": {"fraction": 0.2, "levels": 3},
    "recipes": ["vanilla"],
    "seeds": [0],
}
"""A spec on digits: 862 training, 216 validation and 719 test images; no file is needed."""


def spec_data(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """SPEC with values set at dotted paths."""
    data = copy.deepcopy(SPEC)
    for path, value in (changes or {}).items():
        *outer, last = path.split(".")
        place = data
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = copy.deepcopy(value)
    return data


def write(file: Path, data: Any) -> Path:
    """Write text as it is, anything else as JSON (which is YAML) with one key a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(data if isinstance(data, str) else json.dumps(data, indent=1))
    return file


def line_of(file: Path, text: str) -> int:
    """The number of the one line of `file` that holds `text`."""
    (line,) = [n for n, there in enumerate(file.read_text().splitlines(), 1) if text in there]
    return line


def write_recipe(folder: Path, name: str, **keys: Any) -> Path:
    return write(folder / f"{name}.yaml", {"recipe": name, "title": name, **keys})


def resolved(folder: Path, changes: Mapping[str, Any] | None = None) -> ResolvedSpec:
    return resolve(write(folder / "spec.yaml", spec_data(changes)))


def planned(folder: Path, changes: Mapping[str, Any] | None = None) -> Plan:
    return make_plan([resolved(folder, changes)])


def only_trajectory(folder: Path, changes: Mapping[str, Any] | None = None) -> Trajectory:
    """The trajectory of a spec that plans exactly one."""
    (trajectory,) = planned(folder, changes).trajectories.values()
    return trajectory


def error_of(call: Callable[[], object]) -> InputError:
    """The InputError that `call` raises."""
    with pytest.raises(InputError) as raised:
        call()
    return raised.value


def problems(call: Callable[[], object]) -> tuple[str, ...]:
    """The problems of the InputError that `call` raises, none of which was left out."""
    error = error_of(call)
    assert error.lines == error.problems
    return error.problems


def only_problem(call: Callable[[], object]) -> str:
    (line,) = problems(call)
    return line


def measured(level: int, accuracy: float, entropy: float = 1.0, sparsity: float = 0.0) -> Measured:
    """A level's results, as far as stop rules read them."""
    return Measured(
        level=level,
        train_accuracy=1.0,
        flip_rate=0.0,
        fitted_noisy=None,
        fitted_true=None,
        train_loss=0.1,
        validation_accuracy=accuracy,
        test_accuracy=accuracy,
        entropy_bits=entropy,
        entropy_bits_per_layer={},
        total_weights=100,
        nonzero_weights=100,
        sparsity=sparsity,
        density_per_layer={},
        learning_distance=1.0,
    )


def results(
    accuracies: Sequence[float], entropies: Sequence[float] | None = None
) -> list[Measured]:
    """Levels 0, 1, ... with these validation accuracies; the entropy is flat unless given."""
    bits = entropies or [1.0] * len(accuracies)
    return [measured(k, *pair) for k, pair in enumerate(zip(accuracies, bits, strict=True))]


PAPER_MACS = {"vgg-like": 67_831_296, "resnet18": 141_202_432}


def paper_macs(setup: TrainingSetup) -> Macs:
    """The MACs of Table 1's networks on CIFAR-10, as fvcore counts them in train mode."""
    return Macs(PAPER_MACS[setup.network.arch], {"first": 7_000_000, "second": 60_000_000})
