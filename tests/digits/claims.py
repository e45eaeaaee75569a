"""The statements that specs/digits.yaml is made to bear out, on two reports in JSON.

Bounds are on what a reader sees: verdicts, mean accuracies and sparsities. None is read off a run.
"""

import statistics
from typing import Any

Report = dict[str, Any]

VANILLA, EARLY_STOP = "vanilla", "early-stop"
DENSE, PRUNED = "kd-dense-sparsest", "kd-pruned-sparsest"


def claims(report: Report, control: Report) -> dict[str, bool]:
    """Say of each statement whether the report of the spec and that of its control bear it out."""
    return {
        "vanilla: sparse double descent, yes": _verdict(report, VANILLA) == "yes",
        "vanilla: interpolates at level 0": _interpolates(report),
        "vanilla: reports the sweet phase": _phase_of_median(report, VANILLA) == "sweet",
        "control: a dip under 2 points": _curve(control, VANILLA)["dip"] < 0.02,
        "early stop: in the dip": _stops_in_the_dip(report),
        "early stop: below vanilla, at less sparsity": all(
            _mean(report, EARLY_STOP, quantity) < _mean(report, VANILLA, quantity)
            for quantity in ("test_accuracy", "sparsity")
        ),
        "early stop: at most half of the PFLOPs": _mean(report, EARLY_STOP, "pflops")
        <= _mean(report, VANILLA, "pflops") / 2,
        "dense teacher: no clear dip": _verdict(report, DENSE) != "yes",
        "dense teacher: at most half the dip": _curve(report, DENSE)["dip"]
        <= _curve(report, VANILLA)["dip"] / 2,
        "dense teacher: above vanilla": _accuracy(report, DENSE) > _accuracy(report, VANILLA),
        "pruned teacher: no dip": _verdict(report, PRUNED) == "no",
        "pruned teacher: is pruned": _row(report, PRUNED)["teacher_level"] >= 1,
        "pruned teacher: at 90 % sparsity or more": _mean(report, PRUNED, "sparsity") >= 0.9,
        "pruned teacher: 3 points above vanilla": _accuracy(report, PRUNED)
        >= _accuracy(report, VANILLA) + 0.03,
        "pruned teacher: the best of four": _accuracy(report, PRUNED)
        == max(row["test_accuracy"]["mean"] for row in report["rows"]),
    }


def _row(report: Report, recipe: str) -> Report:
    return next(row for row in report["rows"] if row["recipe"] == recipe)


def _curve(report: Report, recipe: str) -> Report:
    return next(curve for curve in report["curves"] if curve["recipe"] == recipe)


def _verdict(report: Report, recipe: str) -> str:
    return str(_curve(report, recipe)["sparse_double_descent"])


def _mean(report: Report, recipe: str, quantity: str) -> float:
    return float(_row(report, recipe)[quantity]["mean"])


def _accuracy(report: Report, recipe: str) -> float:
    return _mean(report, recipe, "test_accuracy")


def _interpolates(report: Report) -> bool:
    """Every seed's dense student fits 99 % of its noisy labels or more."""
    keys = _row(report, VANILLA)["trajectory_keys"]
    dense = [t["levels"][0] for t in report["trajectories"] if t["key"] in keys]
    return len(dense) == len(keys) and min(level["train_accuracy"] for level in dense) >= 0.99


def _phase_of_median(report: Report, recipe: str) -> str:
    """The phase of the mean curve in which the median of the reported levels lies."""
    level = statistics.median_low(_row(report, recipe)["level"]["values"])
    return str(_curve(report, recipe)["phases"][level])


def _stops_in_the_dip(report: Report) -> bool:
    """It stops because the accuracy dropped, by the bottom, below where the fall began."""
    curve, row = _curve(report, VANILLA), _row(report, EARLY_STOP)
    if curve["dip_levels"] is None:
        return False
    before, bottom = curve["dip_levels"]["before"], curve["dip_levels"]["bottom"]
    return (
        row["stop_reason"] == "accuracy dropped"
        and row["stopped_at"]["mean"] <= bottom
        and row["test_accuracy"]["mean"] < curve["mean_test_accuracy"][before]
    )
