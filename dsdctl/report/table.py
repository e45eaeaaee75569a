"""The comparison as typed rows, read from plan, store and stop rules alone.

Its JSON is a contract: accuracies, shares and sparsity are fractions; std is with ddof 1 and null
at n = 1; `values` follow `seeds`, null where a seed is not finished.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import ConfigDict, Field

from dsdctl.cost import CountMacs, nonzero_pflops, training_pflops
from dsdctl.fields import Model
from dsdctl.labels import describe_noise
from dsdctl.plan import RowPlan, Trajectory
from dsdctl.progress import Progress
from dsdctl.report.curves import Verdict, find_dip, mean_curve, phases, verdict
from dsdctl.results import FinishedLevel, Measured, environment_line
from dsdctl.spec import ReferenceRow
from dsdctl.stopping import Reading

SCHEMA = "dsdctl.report/1"


class Stats(Model):
    """A value over seeds."""

    mean: float | None
    std: float | None
    values: tuple[int | float | None, ...]


class ReportRow(Model):
    """One recipe in one variant. PFLOPs are one seed's, in the paper's convention but for
    `pflops_nonzero`, where each layer's MACs are scaled by its density.

    `flip_rate` is the share of training labels that are not the true ones, null until it is known.
    """

    recipe: str
    variant: str
    title: str
    early_stop: bool
    distillation: bool
    pruned_teacher: bool
    seeds: tuple[int, ...]
    trajectory_keys: tuple[str, ...]
    level: Stats
    stopped_at: Stats
    trainings: Stats
    pflops: Stats
    teacher_pflops: float | None
    teacher_level: int | None
    test_accuracy: Stats
    sparsity: Stats
    stop_reason: str
    phase: str | None
    reference: ReferenceRow | None
    label_noise: str
    flip_rate: Stats
    pflops_nonzero: Stats

    @property
    def finished_seeds(self) -> int:
        return sum(value is not None for value in self.test_accuracy.values)


class TrajectoryReport(Model):
    """A trajectory and everything that its finished levels recorded."""

    key: str
    variant: str
    roles: tuple[str, ...]
    used_by: tuple[str, ...]
    seed: int
    levels: tuple[dict[str, Any], ...]


class Curve(Model):
    """The mean test accuracy of a recipe by level, and what it shows."""

    recipe: str
    variant: str
    levels: tuple[int, ...]
    mean_test_accuracy: tuple[float, ...]
    dip: float
    sparse_double_descent: Verdict


class Report(Model):
    """The comparison of one experiment."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: str = Field(SCHEMA, alias="schema")
    experiment: str
    complete: bool
    selected_on: str = Field(description="the images that chose the best level")
    rows: tuple[ReportRow, ...]
    trajectories: tuple[TrajectoryReport, ...]
    curves: tuple[Curve, ...]


def make_report(progress: Progress, count_macs: CountMacs) -> list[Report]:
    """One report for each spec of the plan, from what is known by now."""
    return [
        _report(progress, spec.experiment.experiment, count_macs) for spec in progress.plan.specs
    ]


def _report(progress: Progress, experiment: str, count_macs: CountMacs) -> Report:
    plan = progress.plan
    row_plans = [row_plan for row_plan in plan.rows if row_plan.experiment == experiment]
    rows = tuple(_row(progress, row_plan, count_macs) for row_plan in row_plans)
    return Report(
        experiment=experiment,
        complete=all(row.finished_seeds == len(row.seeds) for row in rows),
        selected_on=_selected_on(row_plans),
        rows=rows,
        trajectories=tuple(
            _trajectory(progress, trajectory)
            for trajectory in plan.trajectories.values()
            if any(use.experiment == experiment for use in plan.all_uses(trajectory))
        ),
        curves=tuple(_curve(progress, row_plan) for row_plan in row_plans),
    )


def _selected_on(row_plans: Sequence[RowPlan]) -> str:
    protocols = {
        "test" if row_plan.row.student.images.dataset.validation == "test" else "validation"
        for row_plan in row_plans
    }
    return " and ".join(sorted(protocols))


def _row(progress: Progress, row_plan: RowPlan, count_macs: CountMacs) -> ReportRow:
    recipe, plan = row_plan.row.recipe, progress.plan
    students = [plan.trajectories[key] for key in row_plan.students]
    readings = [progress.reading(row_plan, key) for key in row_plan.students]
    chosen = [
        _selected(progress, student, reading.selected(recipe.select))
        for student, reading in zip(students, readings, strict=True)
    ]
    price = training_pflops(row_plan.row.student, count_macs(row_plan.row.student))
    trainings = [reading.trainings if reading.finished else None for reading in readings]
    level = _stats([result.level if result else None for result in chosen])
    flipped = [progress.flip_rate(student) for student in students]
    reference = next(
        spec.experiment.reference.get(recipe.recipe)
        for spec in plan.specs
        if spec.experiment.experiment == row_plan.experiment
    )
    return ReportRow(
        recipe=recipe.recipe,
        variant=row_plan.row.variant,
        title=recipe.title,
        early_stop=recipe.early_stop,
        distillation=recipe.distill is not None,
        pruned_teacher=recipe.pruned_teacher,
        seeds=row_plan.seeds,
        trajectory_keys=row_plan.students,
        level=level,
        stopped_at=_stats([r.stopped_at if r.finished else None for r in readings]),
        trainings=_stats(trainings),
        pflops=_stats([None if count is None else count * price for count in trainings]),
        teacher_pflops=_teacher_pflops(progress, students[0], count_macs),
        teacher_level=_teacher_level(progress, students),
        test_accuracy=_stats([result.test_accuracy if result else None for result in chosen]),
        sparsity=_stats([result.sparsity if result else None for result in chosen]),
        stop_reason=", ".join(
            dict.fromkeys(
                "teacher diverged" if progress.lost_its_teacher(student) else reading.reason
                for student, reading in zip(students, readings, strict=True)
            )
        ),
        phase=_phase(progress, row_plan, level),
        reference=reference,
        label_noise=describe_noise(row_plan.row.student.images.noise),
        flip_rate=_stats([flips.rate if flips.exact else None for flips in flipped]),
        pflops_nonzero=_stats(
            [
                _nonzero_pflops(progress, student, reading, count_macs)
                for student, reading in zip(students, readings, strict=True)
            ]
        ),
    )


def _selected(progress: Progress, student: Trajectory, level: int | None) -> Measured | None:
    return None if level is None else progress.known[student.key].measured[level]


def _nonzero_pflops(
    progress: Progress, student: Trajectory, reading: Reading, count_macs: CountMacs
) -> float | None:
    """What a seed's trainings cost; None where one diverged, which recorded no densities."""
    levels = progress.known[student.key].measured[: reading.trainings]
    if not reading.finished or len(levels) < reading.trainings:
        return None
    return nonzero_pflops(student.regime, count_macs(student.regime), levels)


def _teacher_pflops(progress: Progress, student: Trajectory, count_macs: CountMacs) -> float | None:
    """What the teacher's trainings cost, as far as its rule needs them; None without a teacher."""
    need = student.teacher
    if need is None or need.trajectory is None:
        return None
    trainings = need.levels
    known = progress.known[need.trajectory]
    if known.diverged:
        trainings = min(trainings, known.next_level)
    return trainings * training_pflops(need.regime, count_macs(need.regime))


def _teacher_level(progress: Progress, students: Sequence[Trajectory]) -> int | None:
    """The level that taught, where it is known and the same for all seeds."""
    levels = {progress.teacher_level(student.teacher) for student in students if student.teacher}
    return levels.pop() if len(levels) == 1 else None


def _phase(progress: Progress, row_plan: RowPlan, level: Stats) -> str | None:
    """The phase in which the reported level lies on the mean curve."""
    names = phases(mean_curve(_test_curves(progress, row_plan)))
    if level.mean is None or round(level.mean) >= len(names):
        return None
    return names[round(level.mean)]


def _test_curves(progress: Progress, row_plan: RowPlan) -> list[list[float]]:
    levels = row_plan.row.student.levels
    return [
        [result.test_accuracy for result in progress.known[key].measured[:levels]]
        for key in row_plan.students
    ]


def _curve(progress: Progress, row_plan: RowPlan) -> Curve:
    curves = _test_curves(progress, row_plan)
    mean = mean_curve(curves)
    dip = find_dip(mean)
    return Curve(
        recipe=row_plan.row.recipe.recipe,
        variant=row_plan.row.variant,
        levels=tuple(range(len(mean))),
        mean_test_accuracy=tuple(mean),
        dip=dip.depth if dip else 0.0,
        sparse_double_descent=verdict(curves),
    )


def _trajectory(progress: Progress, trajectory: Trajectory) -> TrajectoryReport:
    return TrajectoryReport(
        key=trajectory.key,
        variant=progress.plan.variant(trajectory),
        roles=tuple(trajectory.roles),
        used_by=tuple(progress.plan.used_by(trajectory)),
        seed=trajectory.seed,
        levels=tuple(level_record(level) for level in progress.known[trajectory.key].levels),
    )


def level_record(level: FinishedLevel) -> dict[str, Any]:
    """What a level recorded, with its key and wall time, as plain data."""
    return {
        "key": level.key,
        **level.result.model_dump(mode="json"),
        "environment": environment_line(level.environment),
        "wall_seconds": level.environment.wall_seconds,
    }


def _stats(values: Sequence[float | int | None]) -> Stats:
    known = [value for value in values if value is not None]
    return Stats(
        mean=statistics.fmean(known) if known else None,
        std=statistics.stdev(known) if len(known) > 1 else None,
        values=tuple(values),
    )


Renderer = Callable[[Sequence[Report]], str]
