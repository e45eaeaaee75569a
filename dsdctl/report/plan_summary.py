"""The run plan as plain data (a contract for `plan --json`), as text and as a graph."""

from collections.abc import Collection, Iterable, Mapping

from pydantic import ConfigDict, Field

from dsdctl.cost import (
    CountMacs,
    early_state_pflops,
    level_bytes,
    level_pflops_executed,
    row_cost,
    table_forwards,
    table_pflops,
    training_pflops,
)
from dsdctl.fields import Model
from dsdctl.keys import key_of
from dsdctl.plan import Trajectory
from dsdctl.progress import Progress
from dsdctl.report.plan_cluster import ClusterPlan
from dsdctl.resolve import table_bytes
from dsdctl.shapes import layer_weights

SCHEMA = "dsdctl.plan/1"


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


class PlanTable(Model):
    """A teacher table. Its key is known once the teacher's level is; till then it is named."""

    key: str
    forwards: int
    pflops: float
    bytes: int
    done: bool
    used_by: tuple[str, ...]


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


def summarise(
    progress: Progress,
    count_macs: CountMacs,
    seconds_estimate: float | None = None,
    cluster: ClusterPlan | None = None,
) -> PlanSummary:
    """Summarise a plan; `seconds_estimate` is None when uncalibrated."""
    plan = progress.plan
    tables = plan_tables(progress, count_macs)
    distinct_tables = tuple({table.key: table for table in tables.values()}.values())
    return PlanSummary(
        experiment=", ".join(spec.experiment.experiment for spec in plan.specs),
        recipes=tuple(
            PlanRecipe(
                recipe=row_plan.row.recipe.recipe,
                variant=row_plan.row.variant,
                **vars(row_cost(plan, row_plan, count_macs)),
            )
            for row_plan in plan.rows
        ),
        trajectories=tuple(
            _trajectory(progress, trajectory, tables, count_macs)
            for trajectory in plan.trajectories.values()
        ),
        teacher_tables=distinct_tables,
        totals=_totals(progress, distinct_tables, count_macs, seconds_estimate),
        cluster=cluster,
    )


def _trajectory(
    progress: Progress,
    trajectory: Trajectory,
    tables: Mapping[str, PlanTable],
    count_macs: CountMacs,
) -> PlanTrajectory:
    macs = count_macs(trajectory.regime)
    flips = progress.flip_rate(trajectory)
    need = trajectory.teacher
    return PlanTrajectory(
        key=trajectory.key,
        variant=progress.plan.variant(trajectory),
        roles=tuple(trajectory.roles),
        arch=trajectory.regime.network.arch,
        seed=trajectory.seed,
        levels=trajectory.levels,
        macs_per_image=macs.total,
        pflops_per_training=training_pflops(trajectory.regime, macs),
        used_by=tuple(progress.plan.used_by(trajectory)),
        needs=_needs(trajectory, tables),
        levels_done=progress.known[trajectory.key].next_level,
        flip_rate=flips.rate,
        flip_rate_exact=flips.exact,
        levels_to_restore=tuple(progress.levels_to_restore(trajectory)),
        teacher_table=need.table if need else None,
        teacher_table_reason=need.table_reason if need else None,
    )


def _totals(
    progress: Progress,
    tables: Iterable[PlanTable],
    count_macs: CountMacs,
    seconds_estimate: float | None,
) -> Totals:
    plan = progress.plan
    attributed = 0.0
    for row_plan in plan.rows:
        cost = row_cost(plan, row_plan, count_macs)
        attributed += len(row_plan.seeds) * (cost.pflops_max + cost.teacher_pflops_max)
    to_run = sum(table.pflops for table in tables if not table.done)
    missing = levels_to_run(progress)
    for trajectory in plan.trajectories.values():
        to_run += missing[trajectory.key] * level_pflops_executed(trajectory, count_macs)
    for rewinding in missing_early_states(progress).values():
        to_run += early_state_pflops(rewinding[0], count_macs)
    restored = sum(levels_to_restore(progress).values())
    done = len({level.key for known in progress.known.values() for level in known.levels})
    return Totals(
        trainings=done + sum(missing.values()) - restored,
        trainings_done=done,
        pflops_attributed=attributed,
        pflops_to_run=to_run,
        seconds_estimate=seconds_estimate,
        disk_bytes=disk_bytes(progress),
        trainings_to_restore=restored,
    )


def levels_to_run(progress: Progress, only: Collection[str] = ()) -> dict[str, int]:
    """By trajectory, how many levels may be run: those missing, and those whose weights were
    dropped and are needed again; `only` of those of these keys, if any."""
    restored = levels_to_restore(progress, only)
    return {key: count + restored[key] for key, count in missing_levels(progress, only).items()}


def levels_to_restore(progress: Progress, only: Collection[str] = ()) -> dict[str, int]:
    """By trajectory, how many levels are run again; a shared one counts for the first of them."""
    counts: dict[str, int] = {}
    counted: set[str] = set()
    for trajectory in progress.plan.chosen(only):
        levels = progress.known[trajectory.key].levels
        new = {levels[k].key for k in progress.levels_to_restore(trajectory)} - counted
        counted |= new
        counts[trajectory.key] = len(new)
    return counts


def missing_levels(progress: Progress, only: Collection[str] = ()) -> dict[str, int]:
    """By trajectory, how many levels may still be run: up to the last, since a stop is not known
    before. A level that trajectories share counts for the first of them."""
    missing: dict[str, int] = {}
    counted: set[tuple[object, ...]] = set()
    for trajectory in progress.plan.chosen(only):
        names = trajectory.level_names()[progress.known[trajectory.key].next_level :]
        new = set(names) - counted if progress.wants_level(trajectory) else set()
        counted |= new
        missing[trajectory.key] = len(new)
    return missing


def disk_bytes(progress: Progress, only: Collection[str] = ()) -> int:
    """Bytes that missing levels and teacher tables may write; `only` those for the trajectories of
    these keys, if any."""
    total = 0
    tables: set[str] = set()
    missing = levels_to_run(progress, only)
    for trajectory in progress.plan.chosen(only):
        count = missing[trajectory.key]
        total += count * level_bytes(_weights(trajectory))
        need = trajectory.teacher
        if not count or need is None or not need.table:
            continue
        key = _table_key(progress, trajectory)
        if key not in tables and not progress.store.has_table(key):
            tables.add(key)
            total += table_bytes(trajectory.regime)
    early = missing_early_states(progress, only).values()
    return total + sum(level_bytes(_weights(rewinding[0])) for rewinding in early)


def missing_early_states(
    progress: Progress, only: Collection[str] = ()
) -> dict[str, list[Trajectory]]:
    """By key, each early state of level 0 still to be computed, and who rewinds to it."""
    states: dict[str, list[Trajectory]] = {}
    for trajectory in progress.plan.chosen(only):
        rewinds = trajectory.regime.rewind_iterations > 0 and trajectory.levels > 1
        if not rewinds or not progress.wants_level(trajectory):
            continue
        identity = progress.early_state(trajectory)
        # It has no key of its own while the teacher's level is not known.
        key = trajectory.key if identity is None else key_of(identity)
        if progress.store.level(key) is None:
            states.setdefault(key, []).append(trajectory)
    return states


def plan_tables(progress: Progress, count_macs: CountMacs) -> dict[str, PlanTable]:
    """The table of each distilled trajectory that reads one, by the trajectory's key."""
    tables: dict[str, PlanTable] = {}
    users: dict[str, list[str]] = {}
    for trajectory in progress.plan.trajectories.values():
        need = trajectory.teacher
        if need is None or not need.table:
            continue
        key = _table_key(progress, trajectory)
        users.setdefault(key, []).extend(progress.plan.used_by(trajectory))
        tables[trajectory.key] = PlanTable(
            key=key,
            forwards=table_forwards(trajectory.regime),
            pflops=table_pflops(trajectory.regime, count_macs(need.regime)),
            bytes=table_bytes(trajectory.regime),
            done=progress.store.has_table(key),
            used_by=(),
        )
    return {
        trajectory: table.model_copy(update={"used_by": tuple(dict.fromkeys(users[table.key]))})
        for trajectory, table in tables.items()
    }


def _table_key(progress: Progress, trajectory: Trajectory) -> str:
    """A table's key; a name by trajectory and rule while its teacher's level is not known."""
    identity = progress.table_identity(trajectory)
    if identity is not None:
        return key_of(identity)
    need = trajectory.teacher
    assert need is not None
    views = trajectory.regime.augment
    details = f"levels={need.levels},flip={views.flip},crop={views.crop}"
    return f"{need.trajectory}@{need.rule}/{details}"


def _needs(trajectory: Trajectory, tables: Mapping[str, PlanTable]) -> tuple[str, ...]:
    need = trajectory.teacher
    if need is None:
        return ()
    teacher = (need.trajectory,) if need.trajectory is not None else ()
    table = (tables[trajectory.key].key,) if trajectory.key in tables else ()
    return (*teacher, *table)


def _weights(trajectory: Trajectory) -> int:
    facts = trajectory.regime.images.facts
    size = (facts.channels, facts.height, facts.width)
    return sum(layer_weights(trajectory.regime.network, *size, facts.classes).values())
