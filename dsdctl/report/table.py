"""The comparison as typed rows, read from plan, store and stop rules alone.

Its JSON is a contract: accuracies, shares and sparsity are fractions; std is with ddof 1 and null
at n = 1; `values` follow `seeds`, null where a seed is not finished.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import ConfigDict, Field

from dsdctl.cost.ledger import CountMacs, training_pflops
from dsdctl.plan.plan import RowPlan
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.answer import Answer, Level, make_answers
from dsdctl.report.curve_summary import Curve
from dsdctl.report.networks import network_notes
from dsdctl.report.rows import ReportRow, make_curve, make_row
from dsdctl.report.seeds import paired_difference
from dsdctl.results import level_record
from dsdctl.spec.experiment import Experiment
from dsdctl.spec.fields import Model

SCHEMA = "dsdctl.report/1"


class TrajectoryReport(Model):
    """A trajectory and everything that its finished levels recorded."""

    key: str
    variant: str
    roles: tuple[str, ...]
    used_by: tuple[str, ...]
    seed: int
    levels: tuple[dict[str, Any], ...]
    pflops_per_training: float

    @property
    def measured(self) -> list[Level]:
        """Its levels but for one that diverged."""
        return [level for level in self.levels if level["kind"] == "measured"]


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
    answers: tuple[Answer, ...] = Field(description="one a variant: which network to deploy")
    networks: tuple[str, ...] = Field((), description="what to know of networks of one's own")


def measured_levels(trajectories: Iterable[TrajectoryReport]) -> dict[str, list[Level]]:
    """The levels of each trajectory that were measured, by its key."""
    return {trajectory.key: trajectory.measured for trajectory in trajectories}


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
    curves = [make_curve(progress, row_plan) for row_plan in row_plans]
    rows = _with_differences(
        [
            make_row(progress, row_plan, curve, spec.reference, count_macs)
            for row_plan, curve in zip(row_plans, curves, strict=True)
        ]
    )
    trajectories = tuple(
        _trajectory(progress, trajectory, count_macs)
        for trajectory in progress.plan.trajectories.values()
    )
    return Report(
        experiment=spec.experiment,
        title=spec.title,
        complete=all(row.finished_seeds == len(row.seeds) for row in rows),
        selected_on=_selected_on(row_plans),
        rows=rows,
        trajectories=trajectories,
        curves=tuple(curves),
        same_for_all_seeds=_same_for_all_seeds(row_plans),
        warning=spec.warning,
        deviations=spec.deviations,
        answers=make_answers(rows, measured_levels(trajectories)),
        networks=tuple(network_notes(progress.plan)),
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
        images, teacher_source = row_plan.row.student.images, row_plan.row.teacher_source
        if len(row_plan.seeds) < 2:
            continue
        if images.noise.kind == "human":
            found["set of human labels"] = None
        elif images.noise.rate and images.noise.seed != "per-trajectory":
            found["draw of the label noise"] = None
        if images.dataset.test is not None or images.dataset.validation != "test":
            found["split"] = None
        if teacher_source is not None and (
            teacher_source.file is not None or teacher_source.seed != "paired"
        ):
            found["teacher"] = None
    return tuple(found)


def _with_differences(rows: Sequence[ReportRow]) -> tuple[ReportRow, ...]:
    """Compare each row with the plain one of its variant, seed by seed."""
    is_baseline = {row.variant: row for row in reversed(rows) if row.is_baseline}
    compared = []
    for row in rows:
        baseline = is_baseline.get(row.variant)
        if baseline is not None and baseline is not row:
            difference = paired_difference(
                row.test_accuracy.values, baseline.test_accuracy.values, baseline.recipe
            )
            row = row.model_copy(update={"difference": difference})
        compared.append(row)
    return tuple(compared)


def _trajectory(
    progress: Progress, trajectory: Trajectory, count_macs: CountMacs
) -> TrajectoryReport:
    return TrajectoryReport(
        key=trajectory.key,
        variant=progress.plan.variant(trajectory),
        roles=tuple(trajectory.roles),
        used_by=tuple(progress.plan.used_by(trajectory)),
        seed=trajectory.seed,
        levels=tuple(level_record(level) for level in progress.known[trajectory.key].levels),
        pflops_per_training=training_pflops(trajectory.setup, count_macs(trajectory.setup)),
    )
