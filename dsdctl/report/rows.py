"""The rows of a comparison: what one recipe comes to in one variant, over its seeds."""

from collections.abc import Mapping, Sequence

from dsdctl.cost.ledger import CountMacs, nonzero_pflops, training_pflops
from dsdctl.data.labels import describe_noise
from dsdctl.plan.next_work import stop_reason, wants_level
from dsdctl.plan.plan import RowPlan
from dsdctl.plan.progress import Progress
from dsdctl.plan.stopping import StopDecision
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.curve_summary import Curve, summarize_curve
from dsdctl.report.seeds import PairedDifference, Stats, stats
from dsdctl.results import FinishedLevel, Measured, environment_line
from dsdctl.spec.experiment import ReferenceRow, Select
from dsdctl.spec.fields import Model
from dsdctl.spec.matrix import row_name


class ReportRow(Model):
    """One recipe in one variant. PFLOPs are one seed's, in the paper's convention but for
    `pflops_nonzero`, where each layer's MACs are scaled by its density.

    `flip_rate` is the share of training labels that are not the true ones, null until it is known.
    `select` is how the recipe says which level is reported, a word or {"sparsest_within": x}.
    `axes` are the variant's values by the paths that the matrix varies. `stop_reasons` and
    `diverged_at` (the level at which training diverged) are by seed; `environments` are all that
    computed the row or its teacher. `difference` is in test accuracy, to the variant's baseline:
    its first recipe that neither stops early nor distils. `total_pflops` is the mean of `pflops`
    with the teacher's, which takes `teacher_trainings`. `wall_seconds` are those of a seed's levels
    up to its stop, in one process beside whatever else ran; `teacher_wall_seconds` those of its
    teacher's, null until all are there. `removable_layers` are by seed the layers of the reported
    level whose neurons have no entropy left, null where no level is reported.
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
    total_pflops: float | None
    teacher_trainings: int | None
    wall_seconds: Stats
    teacher_wall_seconds: float | None
    removable_layers: tuple[tuple[str, ...] | None, ...] = ()
    difference: PairedDifference | None = None

    @property
    def name(self) -> str:
        return row_name(self.recipe, self.variant)

    @property
    def finished_seeds(self) -> int:
        return self.test_accuracy.n

    @property
    def is_baseline(self) -> bool:
        """Whether it only prunes: what the other recipes of its variant are compared with."""
        return not (self.early_stop or self.distillation)


def make_row(
    progress: Progress,
    row_plan: RowPlan,
    curve: Curve,
    references: Mapping[str, ReferenceRow],
    count_macs: CountMacs,
) -> ReportRow:
    """The row of a recipe in a variant, of which `curve` is the mean one, as far as it is known by
    now."""
    recipe = row_plan.row.recipe
    students = [progress.plan.trajectories[key] for key in row_plan.students]
    decisions = [progress.decision(row_plan, key) for key in row_plan.students]
    chosen = [
        _selected(progress, student, decision.selected(recipe.select))
        for student, decision in zip(students, decisions, strict=True)
    ]
    price = training_pflops(row_plan.row.student, count_macs(row_plan.row.student))
    trainings = [decision.trainings if decision.finished else None for decision in decisions]
    pflops = stats([None if count is None else count * price for count in trainings])
    teacher_pflops = _teacher_pflops(progress, students[0], count_macs)
    level = stats([result.level if result else None for result in chosen])
    flipped = [progress.flip_rate(student) for student in students]
    reasons = tuple(
        stop_reason(progress, student, decision)
        for student, decision in zip(students, decisions, strict=True)
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
        stopped_at=stats([r.stopped_at if r.finished else None for r in decisions]),
        trainings=stats(trainings),
        pflops=pflops,
        teacher_pflops=teacher_pflops,
        teacher_level=_teacher_level(progress, students),
        test_accuracy=stats([result.test_accuracy if result else None for result in chosen]),
        sparsity=stats([result.sparsity if result else None for result in chosen]),
        stop_reason=", ".join(dict.fromkeys(reasons)),
        phase=_phase(curve, level),
        reference=references.get(recipe.recipe),
        label_noise=describe_noise(row_plan.row.student.images.noise),
        flip_rate=stats([flips.rate if flips.exact else None for flips in flipped]),
        pflops_nonzero=_nonzero_pflops(progress, students, decisions, count_macs),
        axes=dict(row_plan.row.axes),
        teacher_keys=row_plan.teachers,
        stop_reasons=reasons,
        diverged_at=tuple(r.trainings - 1 if r.reason == "diverged" else None for r in decisions),
        environments=_environments(progress, row_plan),
        trainings_max=row_plan.row.student.levels,
        select=recipe.select,
        total_pflops=None if pflops.mean is None else pflops.mean + (teacher_pflops or 0.0),
        teacher_trainings=_teacher_trainings(progress, students[0]),
        wall_seconds=_wall_seconds(progress, students, decisions),
        teacher_wall_seconds=_teacher_wall_seconds(progress, students[0]),
        removable_layers=tuple(_without_entropy(result) if result else None for result in chosen),
    )


def _without_entropy(result: Measured) -> tuple[str, ...]:
    """Layers of which each neuron is on for all training images or off for all.

    The authors' follow-up work removes them (Liao et al. 2024, NEPENTHE; Quétu et al. 2024,
    EASIER).
    """
    return tuple(name for name, bits in result.entropy_bits_per_layer.items() if bits == 0)


def _wall_seconds(
    progress: Progress, students: Sequence[Trajectory], decisions: Sequence[StopDecision]
) -> Stats:
    """How long each finished seed's levels took up to its stop, in seconds."""
    found = [
        _seconds(progress.known[student.key].levels[: decision.trainings])
        if decision.finished
        else None
        for student, decision in zip(students, decisions, strict=True)
    ]
    return stats(found)


def _teacher_wall_seconds(progress: Progress, student: Trajectory) -> float | None:
    """How long the teacher's levels took as far as its rule needs them, in seconds; None without a
    teacher that is trained here, or while one is missing."""
    need = student.teacher
    if need is None or need.trajectory is None:
        return None
    known = progress.known[need.trajectory]
    levels = known.levels[: need.levels]
    return _seconds(levels) if known.diverged or len(levels) == need.levels else None


def _seconds(levels: Sequence[FinishedLevel]) -> float:
    return sum(level.environment.wall_seconds for level in levels)


def _selected(progress: Progress, student: Trajectory, level: int | None) -> Measured | None:
    return None if level is None else progress.known[student.key].measured[level]


def _nonzero_pflops(
    progress: Progress,
    students: Sequence[Trajectory],
    decisions: Sequence[StopDecision],
    count_macs: CountMacs,
) -> Stats:
    """What each seed's trainings cost; None where one diverged, which recorded no densities."""
    found: list[float | None] = []
    for student, decision in zip(students, decisions, strict=True):
        levels = progress.known[student.key].measured[: decision.trainings]
        known = decision.finished and len(levels) == decision.trainings
        macs = count_macs(student.setup)
        found.append(nonzero_pflops(student.setup, macs, levels) if known else None)
    return stats(found)


def _environments(progress: Progress, row_plan: RowPlan) -> tuple[str, ...]:
    """Everything that computed a row's levels or its teachers', each once."""
    keys = [key for key in (*row_plan.students, *row_plan.teachers) if key is not None]
    levels = [level for key in keys for level in progress.known[key].levels]
    return tuple(dict.fromkeys(environment_line(level.environment) for level in levels))


def _teacher_pflops(progress: Progress, student: Trajectory, count_macs: CountMacs) -> float | None:
    """What the teacher's trainings cost, as far as its rule needs them; None without a teacher."""
    trainings, need = _teacher_trainings(progress, student), student.teacher
    if need is None or trainings is None:
        return None
    return trainings * training_pflops(need.setup, count_macs(need.setup))


def _teacher_trainings(progress: Progress, student: Trajectory) -> int | None:
    """How many trainings its teacher's rule needs; None without a teacher that is trained here."""
    need = student.teacher
    if need is None or need.trajectory is None:
        return None
    known = progress.known[need.trajectory]
    return min(need.levels, known.next_level) if known.diverged else need.levels


def _teacher_level(progress: Progress, students: Sequence[Trajectory]) -> int | None:
    """The level that taught, where it is known and the same for all seeds."""
    levels = {progress.teacher_level(student.teacher) for student in students if student.teacher}
    return levels.pop() if len(levels) == 1 else None


def _phase(curve: Curve, level: Stats) -> str | None:
    """The phases of the mean curve in which the reported levels lie."""
    known = [value for value in level.values if value is not None and value < len(curve.phases)]
    return ", ".join(dict.fromkeys(curve.phases[int(value)] for value in sorted(known))) or None


def make_curve(progress: Progress, row_plan: RowPlan) -> Curve:
    """The mean curve of a row's trajectories, as far as all seeds have come."""
    row, levels = row_plan.row, row_plan.row.student.levels
    seeds = [progress.known[key].measured[:levels] for key in row_plan.students]
    return summarize_curve(row.recipe.recipe, row.variant, seeds, _cut_short(progress, row_plan))


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
