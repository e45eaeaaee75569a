"""A report as flat records: one per row, per level, or per point of a mean curve."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_origin, overload

from dsdctl.report.formats.csv import tidy_levels
from dsdctl.report.rows import ReportRow
from dsdctl.report.seeds import Stats
from dsdctl.report.table import Report
from dsdctl.results import Measured

if TYPE_CHECKING:
    from pandas import DataFrame

Record = Mapping[str, Any]
"""Plain values by name; accuracies, rates and sparsity are fractions."""

_OVER_SEEDS = (
    "test_accuracy", "sparsity", "level", "stopped_at", "trainings", "pflops", "pflops_nonzero",
    "flip_rate",
)  # fmt: skip
"""The values of a row that have a mean and a standard deviation over its seeds."""


def _is_plain(annotation: Any) -> bool:
    return get_origin(annotation) not in (dict, tuple)


_LEVEL = (
    "experiment", "role", "recipe", "taught", "variant", "seed", "selected", "stopped", "phase",
    "rule", "pflops", "pflops_so_far", "key",
    *(name for name, field in Measured.model_fields.items() if _is_plain(field.annotation)),
    "environment", "wall_seconds",
)  # fmt: skip
"""The names of a level's record, for a report without levels."""

_CURVE = (
    "recipe", "variant", "level", "sparsity", "test_accuracy", "train_accuracy", "fitted_noisy",
    "fitted_true", "phase", "dip", "sparse_double_descent", "reason",
)  # fmt: skip


class Records(Sequence[Record]):
    """A sequence of records, all with the same `names`, which are known even if it is empty."""

    def __init__(self, names: Iterable[str], records: Iterable[Record]):
        self.names = tuple(names)
        self._records = tuple(records)

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Record, ...]: ...

    def __getitem__(self, index: int | slice) -> Record | tuple[Record, ...]:
        return self._records[index]

    def __repr__(self) -> str:
        return f"<{len(self)} records of {', '.join(self.names)}>"

    def frame(self) -> "DataFrame":
        """The records as a pandas DataFrame, a column per name.

        Raises ImportError if pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            reason = "frames need pandas, which is not installed (pip install 'dsdctl[pandas]')"
            raise ImportError(reason) from error
        return pd.DataFrame.from_records(list(self._records), columns=list(self.names))


def row_records(report: Report) -> Records:
    """One record per row: means over its seeds, with standard deviations under NAME_std."""
    rows = list(map(_row, report.rows))
    names = dict.fromkeys(name for row in rows for name in row)
    return Records(names, ({name: row.get(name) for name in names} for row in rows))


def level_records(report: Report) -> Records:
    """One record per level of each row and seed, and of its teacher, as in the CSV."""
    levels = list(tidy_levels(report))
    names = dict.fromkeys(name for level in levels for name in level) or _LEVEL
    return Records(names, ({name: level.get(name) for name in names} for level in levels))


def curve_records(report: Report) -> Records:
    """One record per level of each row's mean curve, with the verdict on the whole curve."""
    return Records(_CURVE, _points(report))


def _row(row: ReportRow) -> Record:
    difference = row.difference
    return {
        "recipe": row.recipe,
        "variant": row.variant,
        **row.axes,
        "title": row.title,
        "seeds": len(row.seeds),
        "finished_seeds": row.finished_seeds,
        **_means(row),
        "teacher_pflops": row.teacher_pflops,
        "teacher_level": row.teacher_level,
        "select": str(row.select),
        "stop_reason": row.stop_reason,
        "phase": row.phase,
        "baseline": difference.baseline if difference else None,
        "difference": difference.mean if difference else None,
        "difference_low": difference.low if difference else None,
        "difference_high": difference.high if difference else None,
    }


def _means(row: ReportRow) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in _OVER_SEEDS:
        values: Stats = getattr(row, name)
        found |= {name: values.mean, f"{name}_std": values.std}
    return found


def _points(report: Report) -> Iterator[Record]:
    for curve in report.curves:
        for k, level in enumerate(curve.levels):
            values = (
                curve.recipe,
                curve.variant,
                level,
                curve.mean_sparsity[k],
                curve.mean_test_accuracy[k],
                curve.mean_train_accuracy[k],
                curve.mean_fitted_noisy[k] if curve.mean_fitted_noisy else None,
                curve.mean_fitted_true[k] if curve.mean_fitted_true else None,
                curve.phases[k],
                curve.dip,
                curve.sparse_double_descent,
                curve.reason,
            )
            yield dict(zip(_CURVE, values, strict=True))
