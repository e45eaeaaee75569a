"""The comparison as typed rows, read from plan, store and stop rules alone.

Its JSON is a contract: accuracies, shares and sparsity are fractions; std is with ddof 1 and null
at n = 1; `values` follow `seeds`, null where a seed is not finished.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from dsdctl.cost.ledger import CountMacs, nonzero_pflops, training_pflops
from dsdctl.data.labels import describe_noise
from dsdctl.plan.next_work import stop_reason, wants_level
from dsdctl.plan.plan import RowPlan
from dsdctl.plan.progress import Progress
from dsdctl.plan.stopping import Reading
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.curve_summary import Curve, summarise_curve
from dsdctl.report.seeds import PairedDifference, Stats, paired_difference, stats
from dsdctl.results import Measured, environment_line, level_record
from dsdctl.spec.experiment import Experiment, ReferenceRow, Select
from dsdctl.spec.fields import Model
from dsdctl.spec.matrix import row_name

SCHEMA = "dsdctl.report/1"


class ReportRow(Model):
    """One recipe in one variant. PFLOPs are one seed's, in the paper's convention but for
    `pflops_nonzero`, where each layer's MACs are scaled by its density.

    `flip_rate` is the share of training labels that are not the true ones, null until it is known.
    `select` is how the recipe says which level is reported, a word or {"sparsest_within": x}.
    `axes` are the variant's values by the paths that the matrix varies. `stop_reasons` and
    `diverged_at` (the level at which training diverged) are by seed; `environments` are all that
    computed the row or its teacher. `difference` is in test accuracy, to the variant's baseline:
    its first recipe that neither stops early nor distils.
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
    axes: dict[str, str]
    teacher_keys: tuple[str | None, ...]
    stop_reasons: tuple[str, ...]
    diverged_at: tuple[int | None, ...]
    environments: tuple[str, ...]
    trainings_max: int
    select: Select
    difference: PairedDifference | None = None

    @property
    def name(self) -> str:
        return row_name(self.recipe, self.variant)

    @property
    def finished_seeds(self) -> int:
        return self.test_accuracy.n

    @property
    def plain(self) -> bool:
        """Whether it only prunes: what the other recipes of its variant are compared with."""
        return not (self.early_stop or self.distillation)


class TrajectoryReport(Model):
    """A trajectory and everything that its finished levels recorded."""

    key: str
    variant: str
    roles: tuple[str, ...]
    used_by: tuple[str, ...]
    seed: int
    levels: tuple[dict[str, Any], ...]


Shared = Literal["draw of the label noise", "set of human labels", "split", "teacher"]


class Report(Model):
    """The comparison of one experiment."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: str = Field(SCHEMA, alias="schema")
    experiment: str
    title: str
    complete: bool
    selected_on: str = Field(description="the images by which levels were selected")
    rows: tuple[ReportRow, ...]
    trajectories: tuple[TrajectoryReport, ...]
    curves: tuple[Curve, ...]
    same_for_all_seeds: tuple[Shared, ...] = Field(
        description="what the seeds have in common, so that its variance is left out"
    )
    warning: str = Field(description="the spec's; empty without one")
    deviations: tuple[str, ...] = Field(description="from the paper, as the spec names them")


def by_variant(report: Report) -> list[tuple[str, list[ReportRow]]]:
    """The rows of each variant, in the order of the matrix."""
    found: dict[str, list[ReportRow]] = {}
    for row in report.rows:
        found.setdefault(row.variant, []).append(row)
    return list(found.items())


def make_report(progress: Progress, count_macs: CountMacs) -> list[Report]:
    """One report for each spec of the plan, from what is known by now.

    Each is as it would be alone: no level, role or reader of a trajectory is another spec's.
    """
    return [
        _report(progress.alone(spec.experiment.experiment), spec.experiment, count_macs)
        for spec in progress.plan.specs
    ]


def _report(progress: Progress, spec: Experiment, count_macs: CountMacs) -> Report:
    row_plans = progress.plan.rows
    rows = _with_differences(
        [_row(progress, row_plan, spec.reference, count_macs) for row_plan in row_plans]
    )
    return Report(
        experiment=spec.experiment,
        title=spec.title,
        complete=all(row.finished_seeds == len(row.seeds) for row in rows),
        selected_on=_selected_on(row_plans),
        rows=rows,
        trajectories=tuple(
            _trajectory(progress, trajectory) for trajectory in progress.plan.trajectories.values()
        ),
        curves=tuple(_curve(progress, row_plan) for row_plan in row_plans),
        same_for_all_seeds=_same_for_all_seeds(row_plans),
        warning=spec.warning,
        deviations=spec.deviations,
    )


def _selected_on(row_plans: Sequence[RowPlan]) -> str:
    protocols = {
        "test" if row_plan.row.student.images.dataset.validation == "test" else "validation"
        for row_plan in row_plans
    }
    return " and ".join(sorted(protocols))


def _same_for_all_seeds(row_plans: Sequence[RowPlan]) -> tuple[Shared, ...]:
    """What several seeds share, so that their spread does not show how much it matters."""
    found: dict[Shared, None] = {}
    for row_plan in row_plans:
        images, teaching = row_plan.row.student.images, row_plan.row.teaching
        if len(row_plan.seeds) < 2:
            continue
        if images.noise.kind == "human":
            found["set of human labels"] = None
        elif images.noise.rate and images.noise.seed != "per-trajectory":
            found["draw of the label noise"] = None
        if images.dataset.test is not None or images.dataset.validation != "test":
            found["split"] = None
        if teaching is not None and (teaching.file is not None or teaching.seed != "paired"):
            found["teacher"] = None
    return tuple(found)


def _with_differences(rows: Sequence[ReportRow]) -> tuple[ReportRow, ...]:
    """Compare each row with the plain one of its variant, seed by seed."""
    plain = {row.variant: row for row in reversed(rows) if row.plain}
    compared = []
    for row in rows:
        baseline = plain.get(row.variant)
        if baseline is not None and baseline is not row:
            difference = paired_difference(
                row.test_accuracy.values, baseline.test_accuracy.values, baseline.recipe
            )
            row = row.model_copy(update={"difference": difference})
        compared.append(row)
    return tuple(compared)


def _row(
    progress: Progress,
    row_plan: RowPlan,
    references: Mapping[str, ReferenceRow],
    count_macs: CountMacs,
) -> ReportRow:
    recipe = row_plan.row.recipe
    students = [progress.plan.trajectories[key] for key in row_plan.students]
    readings = [progress.reading(row_plan, key) for key in row_plan.students]
    chosen = [
        _selected(progress, student, reading.selected(recipe.select))
        for student, reading in zip(students, readings, strict=True)
    ]
    price = training_pflops(row_plan.row.student, count_macs(row_plan.row.student))
    trainings = [reading.trainings if reading.finished else None for reading in readings]
    level = stats([result.level if result else None for result in chosen])
    flipped = [progress.flip_rate(student) for student in students]
    reasons = tuple(
        stop_reason(progress, student, reading)
        for student, reading in zip(students, readings, strict=True)
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
        stopped_at=stats([r.stopped_at if r.finished else None for r in readings]),
        trainings=stats(trainings),
        pflops=stats([None if count is None else count * price for count in trainings]),
        teacher_pflops=_teacher_pflops(progress, students[0], count_macs),
        teacher_level=_teacher_level(progress, students),
        test_accuracy=stats([result.test_accuracy if result else None for result in chosen]),
        sparsity=stats([result.sparsity if result else None for result in chosen]),
        stop_reason=", ".join(dict.fromkeys(reasons)),
        phase=_phase(_curve(progress, row_plan), level),
        reference=references.get(recipe.recipe),
        label_noise=describe_noise(row_plan.row.student.images.noise),
        flip_rate=stats([flips.rate if flips.exact else None for flips in flipped]),
        pflops_nonzero=_nonzero_pflops(progress, students, readings, count_macs),
        axes=dict(row_plan.row.axes),
        teacher_keys=row_plan.teachers,
        stop_reasons=reasons,
        diverged_at=tuple(r.trainings - 1 if r.reason == "diverged" else None for r in readings),
        environments=_environments(progress, row_plan),
        trainings_max=row_plan.row.student.levels,
        select=recipe.select,
    )


def _selected(progress: Progress, student: Trajectory, level: int | None) -> Measured | None:
    return None if level is None else progress.known[student.key].measured[level]


def _nonzero_pflops(
    progress: Progress,
    students: Sequence[Trajectory],
    readings: Sequence[Reading],
    count_macs: CountMacs,
) -> Stats:
    """What each seed's trainings cost; None where one diverged, which recorded no densities."""
    found: list[float | None] = []
    for student, reading in zip(students, readings, strict=True):
        levels = progress.known[student.key].measured[: reading.trainings]
        known = reading.finished and len(levels) == reading.trainings
        macs = count_macs(student.regime)
        found.append(nonzero_pflops(student.regime, macs, levels) if known else None)
    return stats(found)


def _environments(progress: Progress, row_plan: RowPlan) -> tuple[str, ...]:
    """Everything that computed a row's levels or its teachers', each once."""
    keys = [key for key in (*row_plan.students, *row_plan.teachers) if key is not None]
    levels = [level for key in keys for level in progress.known[key].levels]
    return tuple(dict.fromkeys(environment_line(level.environment) for level in levels))


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


def _phase(curve: Curve, level: Stats) -> str | None:
    """The phases of the mean curve in which the reported levels lie."""
    known = [value for value in level.values if value is not None and value < len(curve.phases)]
    return ", ".join(dict.fromkeys(curve.phases[int(value)] for value in sorted(known))) or None


def _curve(progress: Progress, row_plan: RowPlan) -> Curve:
    row, levels = row_plan.row, row_plan.row.student.levels
    seeds = [progress.known[key].measured[:levels] for key in row_plan.students]
    return summarise_curve(row.recipe.recipe, row.variant, seeds, _cut_short(progress, row_plan))


def _cut_short(progress: Progress, row_plan: RowPlan) -> str:
    """Why the mean curve ends before all is known; empty where it does not."""
    known = [progress.known[key] for key in row_plan.students]
    diverged = [there.next_level - 1 for there in known if there.diverged]
    if diverged and min(diverged) < row_plan.row.student.levels:
        return f"a seed diverged at level {min(diverged)}, where the mean ends"
    wanted = any(
        wants_level(progress, progress.plan.trajectories[key])
        and progress.known[key].next_level < row_plan.row.student.levels
        for key in row_plan.students
    )
    return "levels are missing, a dip may come" if wanted else ""


def _trajectory(progress: Progress, trajectory: Trajectory) -> TrajectoryReport:
    return TrajectoryReport(
        key=trajectory.key,
        variant=progress.plan.variant(trajectory),
        roles=tuple(trajectory.roles),
        used_by=tuple(progress.plan.used_by(trajectory)),
        seed=trajectory.seed,
        levels=tuple(level_record(level) for level in progress.known[trajectory.key].levels),
    )
