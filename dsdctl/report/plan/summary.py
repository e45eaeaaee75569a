"""The run plan as plain data (a contract for `plan --json`), as text and as a graph."""

from collections.abc import Iterable, Mapping

from pydantic import ConfigDict, Field

from dsdctl.cost.cluster import ClusterPlan
from dsdctl.cost.ledger import (
    CountMacs,
    level_pflops_executed,
    rewind_checkpoint_pflops,
    row_cost,
    training_pflops,
)
from dsdctl.cost.remaining import PlanTable, missing_work, plan_tables
from dsdctl.plan.next_work import levels_to_restore
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.spec.fields import Model
from dsdctl.spec.network import network_name

SCHEMA = "dsdctl.plan.plan/1"


class PlanRecipe(Model):
    """A recipe's cost at most, one seed, alone, in the paper's convention."""

    recipe: str
    variant: str
    trainings_max: int
    pflops_max: float
    teacher_trainings_max: int
    teacher_pflops_max: float


class PlanTrajectory(Model):
    """A distinct trajectory. `needs` names teacher trajectories and tables by key.

    `flip_rate` is the share of training labels that are not the true ones; where it is not exact,
    it is what to expect until a level was run.
    """

    key: str
    variant: str
    roles: tuple[str, ...]
    arch: str
    seed: int
    levels: int
    macs_per_image: int
    pflops_per_training: float
    used_by: tuple[str, ...]
    needs: tuple[str, ...]
    levels_done: int
    flip_rate: float
    flip_rate_exact: bool
    levels_to_restore: tuple[int, ...] = Field(
        description="done, but their weights were dropped and are needed again"
    )
    teacher_table: bool | None = Field(
        description="whether the teacher's logits are looked up; None without a teacher"
    )
    teacher_table_reason: str | None


class Totals(Model):
    """`pflops_attributed`: rows and seeds as if each were alone. `pflops_to_run`: executed
    convention (teacher forwards and measuring included, shared work once), missing work only.
    `trainings_to_restore`: of those done, how many are run again for their dropped weights."""

    trainings: int
    trainings_done: int
    pflops_attributed: float
    pflops_to_run: float
    seconds_estimate: float | None
    disk_bytes: int
    trainings_to_restore: int


class PlanSummary(Model):
    """The plan of one or more specs."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: str = Field(SCHEMA, alias="schema")
    experiment: str
    recipes: tuple[PlanRecipe, ...]
    trajectories: tuple[PlanTrajectory, ...]
    teacher_tables: tuple[PlanTable, ...]
    totals: Totals
    cluster: ClusterPlan | None = Field(None, description="with --gpus")


def summarize(
    progress: Progress,
    count_macs: CountMacs,
    seconds_estimate: float | None = None,
    cluster: ClusterPlan | None = None,
) -> PlanSummary:
    """Summarize a plan; `seconds_estimate` is None when uncalibrated."""
    plan = progress.plan
    tables = plan_tables(progress, count_macs)
    distinct_tables = tuple({table.key: table for table in tables.values()}.values())
    costs = [row_cost(plan, row_plan, count_macs) for row_plan in plan.rows]
    attributed = sum(
        len(row_plan.seeds) * (cost.pflops_max + cost.teacher_pflops_max)
        for row_plan, cost in zip(plan.rows, costs, strict=True)
    )
    return PlanSummary(
        experiment=", ".join(spec.experiment.experiment for spec in plan.specs),
        recipes=tuple(
            PlanRecipe(
                recipe=row_plan.row.recipe.recipe, variant=row_plan.row.variant, **vars(cost)
            )
            for row_plan, cost in zip(plan.rows, costs, strict=True)
        ),
        trajectories=tuple(
            _trajectory(progress, trajectory, tables, count_macs)
            for trajectory in plan.trajectories.values()
        ),
        teacher_tables=distinct_tables,
        totals=_totals(progress, distinct_tables, count_macs, attributed, seconds_estimate),
        cluster=cluster,
    )


def _trajectory(
    progress: Progress,
    trajectory: Trajectory,
    tables: Mapping[str, PlanTable],
    count_macs: CountMacs,
) -> PlanTrajectory:
    macs = count_macs(trajectory.setup)
    flips = progress.flip_rate(trajectory)
    need = trajectory.teacher
    return PlanTrajectory(
        key=trajectory.key,
        variant=progress.plan.variant(trajectory),
        roles=tuple(trajectory.roles),
        arch=network_name(trajectory.setup.network),
        seed=trajectory.seed,
        levels=trajectory.levels,
        macs_per_image=macs.total,
        pflops_per_training=training_pflops(trajectory.setup, macs),
        used_by=tuple(progress.plan.used_by(trajectory)),
        needs=_needs(trajectory, tables),
        levels_done=progress.known[trajectory.key].next_level,
        flip_rate=flips.rate,
        flip_rate_exact=flips.exact,
        levels_to_restore=tuple(levels_to_restore(progress, trajectory)),
        teacher_table=need.table if need else None,
        teacher_table_reason=need.table_reason if need else None,
    )


def _totals(
    progress: Progress,
    tables: Iterable[PlanTable],
    count_macs: CountMacs,
    attributed: float,
    seconds_estimate: float | None,
) -> Totals:
    plan, missing = progress.plan, missing_work(progress)
    to_run = sum(table.pflops for table in tables if not table.done)
    for key, count in missing.to_run.items():
        if count:
            to_run += count * level_pflops_executed(plan.trajectories[key], count_macs)
    for rewinding in missing.rewind_checkpoints.values():
        to_run += rewind_checkpoint_pflops(rewinding[0], count_macs)
    restored = sum(missing.restored.values())
    done = len({level.key for known in progress.known.values() for level in known.levels})
    return Totals(
        trainings=done + sum(missing.levels.values()),
        trainings_done=done,
        pflops_attributed=attributed,
        pflops_to_run=to_run,
        seconds_estimate=seconds_estimate,
        disk_bytes=missing.disk_bytes(),
        trainings_to_restore=restored,
    )


def _needs(trajectory: Trajectory, tables: Mapping[str, PlanTable]) -> tuple[str, ...]:
    need = trajectory.teacher
    if need is None:
        return ()
    teacher = (need.trajectory,) if need.trajectory is not None else ()
    table = (tables[trajectory.key].key,) if trajectory.key in tables else ()
    return (*teacher, *table)
