"""The difference of two reports, row by row. Its JSON is a contract: the second minus the first."""

from collections.abc import Mapping, Sequence

from pydantic import ConfigDict, Field

from dsdctl.report.rows import ReportRow
from dsdctl.report.seeds import PairedDifference, Stats, paired_difference
from dsdctl.report.table import Report
from dsdctl.spec.fields import Model
from dsdctl.spec.matrix import row_name

SCHEMA = "dsdctl.comparison/1"


class Side(Model):
    """What one report says of a row; PFLOPs are one seed's, in the paper's convention."""

    seeds: tuple[int, ...]
    test_accuracy: Stats
    pflops: Stats
    teacher_pflops: float | None
    level: Stats
    sparsity: Stats


class ComparedRow(Model):
    """A row that both reports have.

    `paired` are the seeds that both have finished; `difference` is in test accuracy over these,
    null where there are none. `baseline` in it is the first report's name.
    """

    recipe: str
    variant: str
    first: Side
    second: Side
    paired: tuple[int, ...]
    difference: PairedDifference | None

    @property
    def name(self) -> str:
        return row_name(self.recipe, self.variant)


class Comparison(Model):
    """Two reports beside each other; rows that only one of them has are named."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: str = Field(SCHEMA, alias="schema")
    first: str
    second: str
    rows: tuple[ComparedRow, ...]
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]


def compare(first: Report, second: Report, names: tuple[str, str]) -> Comparison:
    """Compare rows of the same recipe and variant; `names` are what the reports are called."""
    ours, theirs = _rows(first), _rows(second)
    return Comparison(
        first=names[0],
        second=names[1],
        rows=tuple(_compared(ours[key], theirs[key], names[0]) for key in ours if key in theirs),
        only_in_first=tuple(row_name(*key) for key in ours if key not in theirs),
        only_in_second=tuple(row_name(*key) for key in theirs if key not in ours),
    )


def _rows(report: Report) -> dict[tuple[str, str], ReportRow]:
    return {(row.recipe, row.variant): row for row in report.rows}


def _compared(first: ReportRow, second: ReportRow, name: str) -> ComparedRow:
    before, after = _by_seed(first), _by_seed(second)
    paired = tuple(seed for seed in before if seed in after)
    difference = paired_difference(
        [after[seed] for seed in paired], [before[seed] for seed in paired], name
    )
    return ComparedRow(
        recipe=first.recipe,
        variant=first.variant,
        first=_side(first),
        second=_side(second),
        paired=paired,
        difference=difference,
    )


def _by_seed(row: ReportRow) -> Mapping[int, float]:
    """The test accuracies of the seeds that are finished."""
    pairs: Sequence[tuple[int, float | None]] = list(
        zip(row.seeds, row.test_accuracy.values, strict=True)
    )
    return {seed: value for seed, value in pairs if value is not None}


def _side(row: ReportRow) -> Side:
    return Side(**{name: getattr(row, name) for name in Side.model_fields})
