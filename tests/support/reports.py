"""Reports of planned specs whose levels were made up instead of trained."""

import csv
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builders import paper_macs, planned
from rich.console import Console

from dsdctl.plan.next_work import wants_level
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.formats.text import render
from dsdctl.report.table import Report, make_report
from dsdctl.results import Diverged, Environment, FinishedLevel, LevelResult, Measured
from dsdctl.spec.pruning import Pruning
from dsdctl.spec.shapes import kept_weights
from dsdctl.store.store import Store

HERE = Environment(
    python="3.11", torch="2.6", dsdctl="0", device="cpu", threads=1, wall_seconds=1.0
)

WEIGHTS = 1_000_000
"""Of each made-up network."""

_RESNET = {"arch": "resnet18"}
_CIFAR: dict[str, Any] = {
    "dataset": {"name": "cifar10"},
    "label_noise.rate": 0.5,
    "student": {"arch": "vgg-like", "depth": 5, "width": 32},
    "teacher": _RESNET,
    "pruning": {"levels": 25},
    "seeds": [0, 1, 2],
}
_NOISE = {"dataset.name": ["cifar10", "cifar100"], "label_noise.rate": [0.1, 0.2, 0.5]}
_RETRAIN = {"pruning.retrain": ["rewind", "reinit", "continue"]}
_SIZES = [{"student.depth": [1, 2, 3]}, {"student.depth": [1], "student.width": [16, 64]}]
_DISTILLED = ["kd-dense-teacher", "kd-pruned-teacher"]

TWINS: dict[str, dict[str, Any]] = {
    "figure2": {**_CIFAR, "student": _RESNET, "recipes": ["vanilla"], "matrix": _NOISE},
    "figure3": {**_CIFAR, "student": _RESNET, "recipes": ["vanilla"], "matrix": _RETRAIN},
    "figure4": {**_CIFAR, "recipes": ["vanilla", "kd-dense-teacher"], "matrix": _SIZES},
    "figure5": {**_CIFAR, "recipes": ["vanilla", "early-stop", *_DISTILLED], "matrix": _NOISE},
}
"""What makes the small spec plan as the paper's figures do."""

MakeLevel = Callable[[Trajectory, int], LevelResult | None]
"""Makes up a level of a trajectory; None ends it as if nothing more had been run."""


def double_descent(trajectory: Trajectory, level: int) -> Measured:
    """A level of a curve with a dip around level 9; distilled ones hardly dip, teachers do so late.

    No two seeds agree, and no number is meant to be anything but plausible.
    """
    distilled = trajectory.teacher is not None
    late = 4 if "teacher" in trajectory.roles and not trajectory.uses else 0
    wobble = 0.01 * math.sin(12.9898 * (trajectory.seed + 1) * (level + 1))
    dip = (0.02 if distilled else 0.12) * math.exp(-(((level - 9 - late) / 3) ** 2))
    collapse = 0.45 / (1 + math.exp(15 + late - level))
    fitted = 1 / (1 + math.exp((level - 10 - late) * 1.2))
    noise = trajectory.setup.images.noise.rate or 0.0
    accuracy = 0.66 + 0.1 * distilled - 0.4 * noise - dip - collapse + wobble
    weights = _weights_left(trajectory.setup.pruning, level)
    return Measured(
        level=level,
        train_accuracy=1 - noise * (1 - fitted),
        flip_rate=noise,
        fitted_noisy=fitted if noise else None,
        fitted_true=0.7 * (1 - fitted) if noise else None,
        train_loss=0.1,
        validation_accuracy=accuracy,
        test_accuracy=accuracy,
        entropy_bits=0.75 - 0.4 / (1 + math.exp((12 + late - level) / 2)),
        entropy_bits_per_layer={},
        total_weights=WEIGHTS,
        nonzero_weights=weights,
        sparsity=1 - weights / WEIGHTS,
        density_per_layer={},
        learning_distance=1.0,
    )


def _weights_left(pruning: Pruning, level: int) -> int:
    left = WEIGHTS
    for round_number in range(1, level + 1 if pruning.criterion != "none" else 1):
        left = kept_weights(WEIGHTS, left, *pruning.share(round_number))
    return left


def nothing(_trajectory: Trajectory, _level: int) -> None:
    """A store that holds no level."""


COMPARED: dict[str, Any] = {
    "student.width": 16,
    "pruning": {"fraction": 0.25, "levels": 15},
    "recipes": ["vanilla", "early-stop", "kd-dense-teacher", "kd-pruned-teacher"],
    "seeds": [0, 1, 2],
}


def diverging(seed: int, at: int) -> MakeLevel:
    """double_descent, but for one seed of the students, which diverges at a level."""

    def make(trajectory: Trajectory, level: int) -> LevelResult:
        if trajectory.seed == seed and level == at and trajectory.uses:
            return Diverged(level=level, epoch=3)
        return double_descent(trajectory, level)

    return make


def progress_of(folder: Path, plan: Plan, make: MakeLevel = double_descent) -> Progress:
    """A plan of which every level that is wanted has been made up."""
    progress = Progress(plan, Store(folder / "no-store"))
    for trajectory in plan.trajectories.values():
        while wants_level(progress, trajectory) and progress.next_level_identity(trajectory):
            level = progress.known[trajectory.key].next_level
            result = make(trajectory, level)
            if result is None:
                break
            key = f"{trajectory.key[:60]}{level:04d}"
            finished = FinishedLevel(key=key, result=result, environment=HERE)
            progress.add(trajectory, finished)
    return progress


def report_of(
    folder: Path, changes: Mapping[str, Any] | None = None, make: MakeLevel = double_descent
) -> Report:
    """The report of the small spec with `changes`, its levels made up."""
    (report,) = make_report(progress_of(folder, planned(folder, changes), make), paper_macs)
    return report


def shown(report: Report, style: str, width: int = 160) -> str:
    return render([report], style, Console(width=width), explained=True)


def one_line(text: str) -> str:
    return " ".join(text.split())


def tidy(report: Report) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(shown(report, "csv"))))
