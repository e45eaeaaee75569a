"""The embedded experiment shows the phenomenon, as an effect of pruning and not of longer training.

Numbers come from real training and so differ in their last digits between machines; the bounds are
those that specs/digits.yaml was made to meet.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the experiment and its control were run, as the README says."""
    store = tmp_path_factory.mktemp("digits")
    _dsdctl("run", "specs/digits.yaml", "specs/digits-control.yaml", "--store", str(store))
    return store


def _dsdctl(*arguments: str) -> str:
    command = [sys.executable, "-m", "dsdctl", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=1400, check=True
    ).stdout


@pytest.fixture(scope="module")
def digits(store: Path) -> dict:
    arguments = ("report", "specs/digits.yaml", "--format", "json", "--store", str(store))
    return json.loads(_dsdctl(*arguments))


def _curve(report: dict, recipe: str) -> dict:
    return next(curve for curve in report["curves"] if curve["recipe"] == recipe)


def _row(report: dict, recipe: str) -> dict:
    return next(row for row in report["rows"] if row["recipe"] == recipe)


def test_the_dense_student_fits_its_noisy_labels(digits: dict) -> None:
    keys = _row(digits, "vanilla")["trajectory_keys"]
    fits = [t["levels"][0]["train_accuracy"] for t in digits["trajectories"] if t["key"] in keys]
    assert len(fits) == 3
    assert min(fits) >= 0.98


def test_pruning_alone_makes_the_dip(digits: dict, store: Path) -> None:
    assert _curve(digits, "vanilla")["dip"] >= 0.08
    assert _curve(digits, "vanilla")["sparse_double_descent"] == "yes"
    arguments = ("report", "specs/digits-control.yaml", "--format", "json", "--store", str(store))
    control = json.loads(_dsdctl(*arguments))
    assert _curve(control, "vanilla")["dip"] <= 0.02


def test_early_stop_stops_in_the_dip(digits: dict) -> None:
    assert _row(digits, "early-stop")["stop_reason"] == "accuracy dropped"
    stopped = _row(digits, "early-stop")["test_accuracy"]["mean"]
    assert stopped < _row(digits, "vanilla")["test_accuracy"]["mean"]


def test_distilling_at_least_halves_the_dip(digits: dict) -> None:
    for recipe in ("kd-dense-teacher", "kd-pruned-teacher"):
        assert _curve(digits, recipe)["dip"] <= _curve(digits, "vanilla")["dip"] / 2


def test_a_pruned_teacher_is_best(digits: dict) -> None:
    assert _row(digits, "kd-pruned-teacher")["teacher_level"] >= 1
    order = ("vanilla", "kd-dense-teacher", "kd-pruned-teacher")
    best = [_row(digits, recipe)["test_accuracy"]["mean"] for recipe in order]
    assert best == sorted(best)
    keys = _row(digits, "kd-pruned-teacher")["trajectory_keys"]
    students = [t["levels"] for t in digits["trajectories"] if t["key"] in keys]
    sparse = [
        statistics.fmean(level["test_accuracy"] for level in levels)
        for levels in zip(*students, strict=False)
        if levels[0]["sparsity"] >= 0.9
    ]
    assert max(sparse) > best[0]
