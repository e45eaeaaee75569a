"""Which network of a variant to deploy, and what stopping early saved, from a report's records.

Recommended is the sparsest network whose validation accuracy, as a mean over the seeds, is at most
`RULE` below the best of all recipes and levels of its variant: one level for all seeds, up to where
each of them stopped. Of equally sparse ones it is the most accurate, then the cheapest.
"""

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsdctl.plan.stopping import ROUNDING
from dsdctl.report.rows import ReportRow
from dsdctl.report.seeds import PairedDifference, Stats, paired_difference, stats, t_interval
from dsdctl.spec.experiment import SparsestWithin
from dsdctl.spec.fields import Model

Level = Mapping[str, Any]
"""What a measured level recorded."""

Trajectories = Mapping[str, Sequence[Level]]
"""The levels that have been measured, by the trajectory's key."""

RULE = SparsestWithin(sparsest_within=0.01)


class Recommended(Model):
    """One level of a recipe over all seeds.

    `dense` says that nothing of it is pruned. `low` and `high` bound the mean test accuracy by a
    t interval, cut off at 0 and 1; null below two seeds. `difference_to_dense` is in test accuracy,
    to the dense network of the variant's plain recipe; null where it is that network, or where
    there is none.
    """

    recipe: str
    level: int
    dense: bool
    sparsity: Stats
    validation_accuracy: Stats
    test_accuracy: Stats
    low: float | None
    high: float | None
    difference_to_dense: PairedDifference | None


class Saved(Model):
    """What a recipe's stop rule saved of its training runs up to the last level.

    `share` is of their PFLOPs, a mean over the seeds. `difference` is in the reported test
    accuracy, to a row that reads the same trajectories to their end; null where there is none.
    """

    recipe: str
    trainings: float
    trainings_max: int
    pflops: float
    share: float
    difference: PairedDifference | None


class Answer(Model):
    """What a variant comes to. Only rows of which all seeds are finished count; `complete` says
    whether these are all. `recommended` is null before the first."""

    variant: str
    axes: dict[str, str]
    sparsest_within: float
    complete: bool
    recommended: Recommended | None
    saved: tuple[Saved, ...]


def make_answers(rows: Sequence[ReportRow], trajectories: Trajectories) -> tuple[Answer, ...]:
    """One answer a variant; the rows of a variant stand together."""
    return tuple(
        _answer(list(variant), trajectories)
        for _, variant in itertools.groupby(rows, key=lambda row: row.variant)
    )


def _answer(rows: Sequence[ReportRow], trajectories: Trajectories) -> Answer:
    finished = [row for row in rows if row.trainings.n == len(row.seeds)]
    return Answer(
        variant=rows[0].variant,
        axes=rows[0].axes,
        sparsest_within=RULE.sparsest_within,
        complete=len(finished) == len(rows),
        recommended=_recommended(finished, trajectories),
        saved=tuple(_saved(row, finished) for row in finished if row.early_stop),
    )


@dataclass(frozen=True)
class _Candidate:
    """A level of a row, as each seed measured it."""

    row: ReportRow
    level: int
    seeds: Sequence[Level]

    def mean(self, quantity: str) -> float:
        return statistics.fmean(seed[quantity] for seed in self.seeds)

    def values(self, quantity: str) -> Stats:
        return stats([seed[quantity] for seed in self.seeds])


def _candidates(row: ReportRow, trajectories: Trajectories) -> Iterator[_Candidate]:
    """The levels that all seeds of a finished row ran."""
    ran = [
        trajectories[key][: int(trainings or 0)]
        for key, trainings in zip(row.trajectory_keys, row.trainings.values, strict=True)
    ]
    for level, seeds in enumerate(zip(*ran, strict=False)):
        yield _Candidate(row, level, seeds)


def _recommended(rows: Sequence[ReportRow], trajectories: Trajectories) -> Recommended | None:
    found = [candidate for row in rows for candidate in _candidates(row, trajectories)]
    if not found:
        return None
    accuracy = [candidate.mean("validation_accuracy") for candidate in found]
    least = max(accuracy) - RULE.sparsest_within - ROUNDING
    close = [one for one, value in zip(found, accuracy, strict=True) if value >= least]
    chosen = max(close, key=_preference)
    values = [seed["test_accuracy"] for seed in chosen.seeds]
    low = high = None
    if len(values) > 1:
        low, high = t_interval(values)
        low, high = max(low, 0.0), min(high, 1.0)
    return Recommended(
        recipe=chosen.row.recipe,
        level=chosen.level,
        dense=chosen.mean("sparsity") == 0,
        sparsity=chosen.values("sparsity"),
        validation_accuracy=chosen.values("validation_accuracy"),
        test_accuracy=stats(values),
        low=low,
        high=high,
        difference_to_dense=_difference_to_dense(chosen, found),
    )


def _preference(one: _Candidate) -> tuple[float, ...]:
    """The higher, the better; what two rows share is the cheaper row's."""
    return (
        one.mean("sparsity"),
        one.mean("validation_accuracy"),
        -(one.row.total_pflops or 0.0),
        -one.level,
    )


def _difference_to_dense(
    chosen: _Candidate, found: Sequence[_Candidate]
) -> PairedDifference | None:
    dense = next((one for one in found if one.row.is_baseline and one.level == 0), None)
    same = dense and dense.row.trajectory_keys == chosen.row.trajectory_keys
    if dense is None or (same and chosen.level == 0):
        return None
    ours, theirs = ([seed["test_accuracy"] for seed in one.seeds] for one in (chosen, dense))
    return paired_difference(ours, theirs, dense.row.recipe)


def _saved(row: ReportRow, rows: Sequence[ReportRow]) -> Saved:
    """What a finished row saved; `rows` are those it may be compared with."""
    whole = next(
        (
            other
            for other in rows
            if other.trajectory_keys == row.trajectory_keys and not other.early_stop
        ),
        None,
    )
    trainings, pflops = row.trainings.mean or 0.0, row.pflops.mean or 0.0
    share = 1 - trainings / row.trainings_max
    return Saved(
        recipe=row.recipe,
        trainings=trainings,
        trainings_max=row.trainings_max,
        pflops=pflops * share / (1 - share),
        share=share,
        difference=(
            paired_difference(row.test_accuracy.values, whole.test_accuracy.values, whole.recipe)
            if whole
            else None
        ),
    )
