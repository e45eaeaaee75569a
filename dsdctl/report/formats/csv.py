"""A comparison as CSV: a line per level, to be grouped and averaged by others.

docs/reports.md says what each column is; a test holds that it names them all.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dsdctl.report.curve_summary import Curve
from dsdctl.report.rows import ReportRow
from dsdctl.report.table import Report, TrajectoryReport

Line = dict[str, object]


def tidy_csv(reports: Sequence[Report]) -> str:
    """One line a level that a row ran of each seed, and one a level of a teacher and row taught."""
    return written([line for report in reports for line in tidy_levels(report)])


def tidy_levels(report: Report) -> Iterator[Line]:
    """One line per level that a row ran of each seed, and per level of a teacher and row taught."""
    trajectories = {trajectory.key: trajectory for trajectory in report.trajectories}
    for row, curve in zip(report.rows, report.curves, strict=True):
        yield from _lines(report, row, curve, trajectories)


def written(lines: Sequence[Line]) -> str:
    """Lines as CSV, under every column that one of them has."""
    columns = dict.fromkeys(column for line in lines for column in line)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue().rstrip("\n")


def axis_columns(axes: Mapping[str, str]) -> Line:
    """The values of a matrix's axes by column: `label_noise.rate` stands in `label_noise_rate`."""
    return {axis.replace(".", "_"): _inert(value) for axis, value in axes.items()}


def _lines(
    report: Report, row: ReportRow, curve: Curve, trajectories: Mapping[str, TrajectoryReport]
) -> Iterator[Line]:
    for index, key in enumerate(row.trajectory_keys):
        trainings = row.trainings.values[index]
        ran = row.trainings_max if trainings is None else int(trainings)
        marks = row.level.values[index], row.stopped_at.values[index]
        for line in _levels(report, row, trajectories[key], ran, "student"):
            level = line["level"]
            yield line | {
                "recipe": row.recipe,
                "selected": level == marks[0],
                "stopped": level == marks[1],
                "phase": dict(enumerate(curve.phases)).get(level),
            }
    for teacher in dict.fromkeys(row.teacher_keys):
        if teacher is not None:
            taught = row.teacher_trainings or 0
            for line in _levels(report, row, trajectories[teacher], taught, "teacher"):
                yield line | {"taught": row.recipe, "selected": line["level"] == row.teacher_level}


def _levels(
    report: Report, row: ReportRow, trajectory: TrajectoryReport, count: int, role: str
) -> Iterator[dict[str, Any]]:
    """The first `count` levels of a trajectory, as far as they are there."""
    for number, level in enumerate(trajectory.levels[:count], 1):
        yield {
            "experiment": report.experiment,
            "role": role,
            "recipe": None,
            "taught": None,
            "variant": row.variant,
            **axis_columns(row.axes),
            "seed": trajectory.seed,
            "selected": False,
            "stopped": False,
            "phase": None,
            "rule": str(row.select) if role == "student" else None,
            "pflops": trajectory.pflops_per_training,
            "pflops_so_far": number * trajectory.pflops_per_training,
            **_scalars(level),
        }


def _inert(text: str) -> str:
    """Text that no spreadsheet computes; numbers are left as they are."""
    number = re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?", text)
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") and not number else text


def _scalars(level: Mapping[str, object]) -> Line:
    return {name: value for name, value in level.items() if not isinstance(value, dict | list)}
