"""Where a recipe stops and which level it reports: pure functions of the results so far.

`vanilla` and `early-stop` use the same trajectory and differ only here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from dsdctl.results import Measured
from dsdctl.spec.experiment import ByValidation, Select, SparsestWithin, StopRule

StopReason = Literal["all levels run", "accuracy dropped", "diverged", "not finished"]


@dataclass(frozen=True)
class StopDecision:
    """Where one recipe stops in one trajectory, and why.

    `trainings` counts all training runs up to the stop, including the one that triggered it.
    `best` is the best level so far on validation (ties: the lowest); None before any result.
    `results` are those up to the stop, from which the reported level is selected.
    """

    finished: bool
    reason: StopReason
    trainings: int
    best: int | None
    stopped_at: int | None
    results: Sequence[Measured] = field(default=(), repr=False, compare=False)

    def candidates(self, select: Select) -> set[int]:
        """The levels so far that the row reports, or may report once it is finished."""
        if not self.finished and isinstance(select, SparsestWithin):
            return set(levels_within(select.sparsest_within, self.results))
        level = self.best if select == "best" else self.selected(select)
        return set() if level is None else {level}

    def selected(self, select: Select) -> int | None:
        """The level that the recipe's row reports, or None while it is not known."""
        if not self.finished:
            return None
        return self.stopped_at if select == "stopped" else chosen_level(select, self.results)


def apply_stop_rule(
    rule: StopRule | None, results: Sequence[Measured], levels: int, *, diverged: bool = False
) -> StopDecision:
    """Apply `rule` to the results of levels 0, 1, ... of a trajectory of at most `levels` levels.

    With `diverged` the level after `results` diverged, which ends the trajectory.
    """
    results = results[:levels]
    stop = stopping_level(rule, results) if rule is not None else None
    if stop is not None:
        return _decision(results[: stop + 1], "accuracy dropped", stop + 1)
    if len(results) == levels:
        return _decision(results, "all levels run", levels)
    if diverged:
        return _decision(results, "diverged", len(results) + 1)
    return StopDecision(False, "not finished", len(results), best_level(results), None, results)


def stopping_level(rule: StopRule, results: Sequence[Measured]) -> int | None:
    """The level at which `rule` stops, or None if it has not stopped yet.

    The gate opens at the first level k with H_k <= (1 - entropy_drop) max(H_0..H_k), or at level 0
    without `after`. From there on, a level counts as a drop if its value is below the best since
    the gate opened, minus the tolerance; after `patience` consecutive drops the rule stops.
    """
    gate_open = rule.after is None
    highest_entropy, best, drops = 0.0, float("-inf"), 0
    for k, result in enumerate(results):
        highest_entropy = max(highest_entropy, result.entropy_bits)
        if result.entropy_bits <= (1 - rule.entropy_drop) * highest_entropy:
            gate_open = True
        if not gate_open:
            continue
        value = result.validation_accuracy
        drops = drops + 1 if value < best - rule.tolerance else 0
        best = max(best, value)
        if drops == rule.patience:
            return k
    return None


def describe_rule(rule: Literal["dense", "stopped"] | ByValidation) -> str:
    """The level that a rule chooses, in words to follow `the`."""
    match rule:
        case "stopped":
            return "level where it stopped"
        case SparsestWithin(sparsest_within=share):
            points = f"{100 * share:g} point{'s' * (share != 0.01)}"
            return f"sparsest level within {points} of the best"
        case word:
            return f"{word} level"


def chosen_level(rule: ByValidation, results: Sequence[Measured]) -> int | None:
    """The level that `rule` chooses from `results`; None if there are none.

    Ties in sparsity, or in accuracy for `best`, go to the lowest level.
    """
    if rule == "best" or not results:
        return best_level(results)
    close = levels_within(rule.sparsest_within, results)
    return max(close, key=lambda k: (results[k].sparsity, -k))


ROUNDING = 1e-12
"""Slack for comparing a difference of accuracies with a tolerance: more than the rounding error of
floating point, less than any true difference. (0.025 - 0.015 must not exceed 0.01.)"""


def levels_within(tolerance: float, results: Sequence[Measured]) -> list[int]:
    """The levels whose validation accuracy is at most `tolerance` below the best one's."""
    values = [result.validation_accuracy for result in results]
    best = max(values, default=0.0)
    return [k for k, value in enumerate(values) if best - value <= tolerance + ROUNDING]


def best_level(results: Sequence[Measured]) -> int | None:
    """The level with the highest validation accuracy; ties go to the lowest level."""
    if not results:
        return None
    return max(range(len(results)), key=lambda k: (results[k].validation_accuracy, -k))


def _decision(results: Sequence[Measured], reason: StopReason, trainings: int) -> StopDecision:
    last = len(results) - 1
    stopped_at = last if last >= 0 else None
    return StopDecision(True, reason, trainings, best_level(results), stopped_at, results)
