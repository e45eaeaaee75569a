"""A comparison as CSV: a line per level."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from dsdctl.report.table import Report

Line = dict[str, object]


def tidy_csv(reports: Sequence[Report]) -> str:
    """One row a level of each recipe and seed, and of each teacher, with what it recorded."""
    lines = [line for report in reports for line in tidy_levels(report)]
    stream = io.StringIO()
    columns = dict.fromkeys(column for line in lines for column in line)
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue().rstrip("\n")


def tidy_levels(report: Report) -> Iterator[Line]:
    """One line per level of each recipe and seed, then of each teacher, with what it recorded."""
    yield from _student_levels(report)
    yield from _teacher_levels(report)


def _student_levels(report: Report) -> Iterator[Line]:
    trajectories = {trajectory.key: trajectory for trajectory in report.trajectories}
    for row, curve in zip(report.rows, report.curves, strict=True):
        for index, seed in enumerate(row.seeds):
            levels = trajectories[row.trajectory_keys[index]].levels[: row.trainings_max]
            for number, level in enumerate(levels):
                yield {
                    "experiment": report.experiment,
                    "recipe": row.recipe,
                    "variant": row.variant,
                    "seed": seed,
                    "selected": number == row.level.values[index],
                    "stopped_at": number == row.stopped_at.values[index],
                    "role": "student",
                    "phase": curve.phases[number] if number < len(curve.phases) else None,
                    "select": str(row.select),
                    **_scalars(level),
                }


def _teacher_levels(report: Report) -> Iterator[Line]:
    taught_by: dict[str | None, set[int | None]] = {}
    for row in report.rows:
        for key in row.teacher_keys:
            taught_by.setdefault(key, set()).add(row.teacher_level)
    for trajectory in report.trajectories:
        taught = taught_by.get(trajectory.key, set())
        for number, level in enumerate(trajectory.levels if "teacher" in trajectory.roles else ()):
            yield {
                "experiment": report.experiment,
                "recipe": None,
                "variant": trajectory.variant,
                "seed": trajectory.seed,
                "selected": number in taught,
                "stopped_at": None,
                "role": "teacher",
                "phase": None,
                "select": None,
                **_scalars(level),
            }


def _scalars(level: Mapping[str, object]) -> Line:
    return {name: value for name, value in level.items() if not isinstance(value, dict | list)}
