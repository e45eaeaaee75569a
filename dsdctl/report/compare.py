"""The difference of two reports, row by row. Its JSON is a contract: the second minus the first."""

from collections.abc import Iterable, Mapping, Sequence

from pydantic import ConfigDict, Field

from dsdctl.report.rows import ReportRow
from dsdctl.report.seeds import PairedDifference, Stats, paired_difference
from dsdctl.report.table import Report
from dsdctl.spec.fields import Model
from dsdctl.spec.matrix import row_name, variant_name

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

    `axes` are all values by which either report parts its variants, `variant` and `second_variant`
    what each calls it. `paired` are the seeds that both have finished; `difference` is in test
    accuracy over these, null where there are none. `baseline` in it is the first report's name.
    """

    recipe: str
    variant: str
    second_variant: str
    axes: dict[str, str]
    first: Side
    second: Side
    paired: tuple[int, ...]
    difference: PairedDifference | None

    @property
    def name(self) -> str:
        return row_name(self.recipe, variant_name(self.axes))


class Comparison(Model):
    """Two reports beside each other; rows that only one of them has are named."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: str = Field(SCHEMA, alias="schema")
    first: str
    second: str
    rows: tuple[ComparedRow, ...]
    only_in_first: tuple[str, ...]
    only_in_second: tuple[str, ...]


Values = Mapping[str, str]
"""What a spec says by path, of an axis that it does not vary itself."""


def compare(
    first: Report, second: Report, names: tuple[str, str], fixed: tuple[Values, Values] = ({}, {})
) -> Comparison:
    """Compare rows of the same recipe whose variants have the same values, in whatever order.

    `names` are what the reports are called. An axis that only one of them varies has in the other
    the value that is `fixed` there; without one nothing matches.
    """
    axes = varied_axes([first, second])
    ours, theirs = (
        [(_key(row, axes, values), row) for row in report.rows]
        for report, values in zip((first, second), fixed, strict=True)
    )
    partners = dict(reversed(theirs))
    pairs = [(row, partners[key]) for key, row in ours if key in partners]
    paired = {id(row) for pair in pairs for row in pair}
    return Comparison(
        first=names[0],
        second=names[1],
        rows=tuple(_compared(*pair, names[0]) for pair in pairs),
        only_in_first=tuple(row.name for row in first.rows if id(row) not in paired),
        only_in_second=tuple(row.name for row in second.rows if id(row) not in paired),
    )


def varied_axes(reports: Iterable[Report]) -> list[str]:
    """Every axis that a report parts its variants by."""
    return list(dict.fromkeys(axis for one in reports for row in one.rows for axis in row.axes))


_Key = tuple[str, tuple[str | float | None, ...]]


def _key(row: ReportRow, axes: Iterable[str], fixed: Values) -> _Key:
    """A row's recipe and values, numbers as such: 1 is 1.0."""
    values = {**fixed, **row.axes}
    return row.recipe, tuple(_value(values[axis]) if axis in values else None for axis in axes)


def _value(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


def _compared(first: ReportRow, second: ReportRow, name: str) -> ComparedRow:
    before, after = _by_seed(first), _by_seed(second)
    paired = tuple(seed for seed in before if seed in after)
    difference = paired_difference(
        [after[seed] for seed in paired], [before[seed] for seed in paired], name
    )
    return ComparedRow(
        recipe=first.recipe,
        variant=first.variant,
        second_variant=second.variant,
        axes={**first.axes, **second.axes},
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
