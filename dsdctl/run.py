"""`dsdctl run`: what is missing of a plan, on an engine, with progress and a mirror."""

import os
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

import dsdctl
from dsdctl.console import print_as_is
from dsdctl.cost import throughput
from dsdctl.cost.ledger import level_pflops_executed
from dsdctl.cost.macs import KeptMacs
from dsdctl.cost.remaining import disk_bytes, levels_to_run
from dsdctl.data.prepare import spare_folder
from dsdctl.display import event_line, make_display
from dsdctl.engines.local import GRACE_SECONDS, THREADS, LocalEngine
from dsdctl.errors import InputError, WorkError
from dsdctl.eventlog import EventLog, event_log
from dsdctl.keys import key_of
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress, stop_reason
from dsdctl.plan.stopping import describe_rule
from dsdctl.plan.trajectory import TeacherNeed, Trajectory
from dsdctl.preparing import prepare_all
from dsdctl.report.attached import attached
from dsdctl.report.table import Report, make_report
from dsdctl.results import FinishedLevel, level_record
from dsdctl.runlog import log, log_to
from dsdctl.schedule import Engine, Event, Scheduler
from dsdctl.spec.matrix import row_name
from dsdctl.store.store import Store
from dsdctl.system.devices import Device
from dsdctl.tracking import Mirror, RunInfo, effective_mode
from dsdctl.units import size
from dsdctl.worker.tasks import Place

if TYPE_CHECKING:
    from dsdctl.engines.ray import RayCluster


@dataclass(frozen=True)
class RunOptions:
    """How and where to run; nothing here changes what a level is."""

    store: Path
    device: Device
    jobs: int
    threads: int
    checkpoint_every: float
    fail_fast: bool
    memory_gib: float
    verbose: bool = False
    ray: "RayCluster | None" = None
    only: tuple[str, ...] = ()
    """Keys of the trajectories to run, if not all. Their comparison is left to who runs all."""
    after_jobs: bool = False
    """Whether jobs ran what is there, one for each trajectory."""
    grace: float = GRACE_SECONDS
    """Seconds that levels in flight may take to a checkpoint when the run is to end."""


@dataclass(frozen=True)
class Finished:
    """What a run leaves: the reports, and the failures by trajectory."""

    reports: list[Report]
    failures: dict[str, str]


def tasks_in_a_process(options: RunOptions) -> int:
    """On a GPU as many as may be: the kernels of its processes take turns, those of the threads of
    one run at the same time."""
    return min(options.jobs, THREADS) if options.device == "cuda" else 1


def run_plan(plan: Plan, options: RunOptions, console: Console) -> Finished:
    """Run what is missing of `plan`; results go to the store, progress to `console`.

    Raises InputError where the store cannot be written or its disk is too small.
    """
    _check_teacher_files(plan)
    store = Store(options.store)
    store.open_for_writing()
    with ExitStack() as stack:
        folder = options.store / "logs"
        log_file = stack.enter_context(log_to(folder, verbose=options.verbose))
        log.info("dsdctl %s, pid %d, %s", dsdctl.__version__, os.getpid(), options)
        log.info("specs: %s", ", ".join(str(spec.file) for spec in plan.specs))
        progress = Progress(plan, store)
        macs = KeptMacs(store)
        _say_damage(store, 0, console)
        said = len(store.damage)
        mirrors = _Mirrors(progress, macs)
        missing = levels_to_run(progress, options.only)
        _log_plan(progress, missing)
        events = stack.enter_context(_event_log(plan, options, log_file, missing))
        failures: dict[str, str] = {}
        observed = throughput.Observed()
        if sum(missing.values()) or options.only:
            _check_disk(progress, options)
            failures = _run_missing(
                progress, options, console, missing, macs, observed, mirrors, events
            )
        reports = make_report(progress, macs)
        _keep(macs)
        _say_damage(store, said, console)
        compared = not options.only and (options.after_jobs or bool(observed.levels))
        mirrors.finish(reports if compared else [], lambda line: _say(console, line))
        _log_readings(progress)
        log.info(
            "ended: %d levels run, %d trajectories failed", len(observed.levels), len(failures)
        )
        events.write(
            "run-ended", levels_run=len(observed.levels), trajectories_failed=len(failures)
        )
        if failures:
            _say(console, f"log: {log_file}")
    return Finished(reports, failures)


def replay(progress: Progress, reports: Sequence[Report], macs: KeptMacs, console: Console) -> None:
    """Mirror to W&B whatever the store holds and the tracker has not seen.

    Raises InputError where no spec wants a tracker.
    """
    if not any(spec.experiment.tracking.wandb for spec in progress.plan.specs):
        raise InputError("--wandb: no given spec has `tracking: {wandb: ...}`")
    mirrors = _Mirrors(progress, macs)
    if not mirrors.wanted:
        _say(console, "W&B: disabled by `mode` of the spec or by $WANDB_MODE")
    for trajectory in progress.plan.trajectories.values():
        for level in progress.known[trajectory.key].levels:
            mirrors.level(trajectory, level)
    mirrors.finish(reports, lambda line: _say(console, line))


def _run_missing(
    progress: Progress,
    options: RunOptions,
    console: Console,
    missing: Mapping[str, int],
    macs: KeptMacs,
    observed: throughput.Observed,
    mirrors: "_Mirrors",
    events: EventLog,
) -> dict[str, str]:
    """Run, adding to `observed`; return the failures by trajectory."""
    costs = {
        key: level_pflops_executed(trajectory, macs)
        for key, trajectory in progress.plan.trajectories.items()
    }
    _keep(macs)
    wanted = [
        progress.plan.trajectories[key] for key, count in missing.items() if count or options.only
    ]
    # What the nodes of a cluster read they prepare themselves: it may lie on their disks alone.
    unprepared = _prepare(wanted, options, console, events) if options.ray is None else {}
    with (
        closing(_engine(options)) as engine,
        make_display(console, sum(missing.values())) as display,
    ):

        def listen(event: Event) -> None:
            log.info("%s %s: %s", event.kind, key_of(event.task.identity), event_line(event))
            if event.trace is not None:
                log.error(event.trace)
            events.add(event)
            display.show(event)
            if event.kind == "finished":
                observed.add(event.trajectory, event.level)
                _calibrate(progress.store, options, observed, macs)
            if event.kind == "finished" and event.level is not None:
                mirrors.level(event.trajectory, event.level)

        scheduler = Scheduler(
            progress, engine, listen, costs, fail_fast=options.fail_fast, only=options.only
        )
        scheduler.failures.update(unprepared)
        observed.begin()
        scheduler.run()
    return scheduler.failures


def _prepare(
    trajectories: Sequence[Trajectory], options: RunOptions, console: Console, events: EventLog
) -> dict[str, str]:
    """Make their data ready; return what failed, by trajectory, once the logs have it."""
    failures = prepare_all(trajectories, spare_folder(options.store), console)
    for trajectory in trajectories:
        reason = failures.get(trajectory.key)
        if reason is not None:
            log.error("failed %s (%s): %s", trajectory.key, trajectory.label, reason)
            events.write("failed", trajectory=trajectory.key, label=trajectory.label, reason=reason)
    return failures


def _engine(options: RunOptions) -> Engine:
    place = Place(
        store=str(options.store),
        device=options.device,
        threads=options.threads,
        checkpoint_every=options.checkpoint_every,
        memory_budget=int(options.memory_gib * 2**30),
    )
    if options.ray is None:
        return LocalEngine(place, options.jobs, options.grace, tasks_in_a_process(options))
    from dsdctl.engines.ray import RayEngine

    return RayEngine(options.ray, place, options.grace)


def _event_log(
    plan: Plan, options: RunOptions, log_file: Path, missing: Mapping[str, int]
) -> AbstractContextManager[EventLog]:
    return event_log(
        log_file.with_suffix(".jsonl"),
        version=dsdctl.__version__,
        host=socket.gethostname(),
        pid=os.getpid(),
        device=options.device,
        jobs=options.jobs,
        specs=tuple(str(spec.file) for spec in plan.specs),
        levels_missing=sum(missing.values()),
    )


def _log_plan(progress: Progress, missing: Mapping[str, int]) -> None:
    for trajectory in progress.plan.trajectories.values():
        key, again = trajectory.key, progress.levels_to_restore(trajectory)
        log.info(
            "trajectory %s (%s): %d levels done, at most %d to run%s%s",
            key,
            trajectory.label,
            progress.known[key].next_level,
            missing.get(key, 0),
            f", of these again for their dropped weights {again}" if again else "",
            "" if trajectory.teacher is None else f"; {_teacher_line(trajectory.teacher)}",
        )


def _teacher_line(need: TeacherNeed) -> str:
    """Who teaches, and whether from a table."""
    table = "its logits from a table" if need.table else "called for every batch"
    rule = need.rule
    who = f"level {rule}" if isinstance(rule, int) else f"the {describe_rule(rule)}"
    source = f"{who} of {need.trajectory}" if need.file is None else str(need.file.path)
    return f"taught by {source}, {table} ({need.table_reason})"


def _log_readings(progress: Progress) -> None:
    """Log what each recipe saw: where it stopped and why, the levels it chose, who taught."""
    for row_plan in progress.plan.rows:
        row = row_plan.row
        for key in row_plan.students:
            trajectory, reading = progress.plan.trajectories[key], progress.reading(row_plan, key)
            taught = ""
            if trajectory.teacher is not None and trajectory.teacher.file is None:
                taught = f"; taught by level {progress.teacher_level(trajectory.teacher)}"
            log.info(
                "%s: %s, seed %d: %s after %d trainings, best level on validation %s, "
                "reported %s%s",
                row_plan.experiment,
                row_name(row.recipe.recipe, row.variant),
                trajectory.seed,
                stop_reason(progress, trajectory, reading),
                reading.trainings,
                reading.best,
                reading.selected(row.recipe.select),
                taught,
            )


def _keep(macs: KeptMacs) -> None:
    """Keep what was counted for later commands; that it cannot be kept is no reason to fail."""
    try:
        macs.keep()
    except (OSError, WorkError) as error:
        log.warning("MACs not kept: %s", error)


def _calibrate(
    store: Store, options: RunOptions, observed: throughput.Observed, macs: KeptMacs
) -> None:
    """Keep the rates for later plans; that they cannot be kept is no reason to fail."""
    try:
        throughput.learn(store, options.device, observed, macs)
    except (OSError, WorkError) as error:
        log.warning("rates not kept: %s", error)


def _check_teacher_files(plan: Plan) -> None:
    """Refuse weights files that do not fit their network. Raises InputError for all at once."""
    problems: dict[str, None] = {}
    for trajectory in plan.trajectories.values():
        need = trajectory.teacher
        if need is not None and need.file is not None:
            from dsdctl.worker.teachers import teacher_from_file

            facts = trajectory.regime.images.facts
            try:
                teacher_from_file(need.file.identity, need.file.path, facts.shape, facts.classes)
            except WorkError as error:
                problems[str(error)] = None
    if problems:
        raise InputError(*problems)


def _check_disk(progress: Progress, options: RunOptions) -> None:
    """Refuse to start what the disk has no room for. Raises InputError."""
    needed = disk_bytes(progress, options.only)
    free = shutil.disk_usage(options.store).free
    if needed > free:
        raise InputError(
            f"--store: {options.store}: the run may write {size(needed)}, "
            f"but only {size(free)} are free"
        )


def _say_damage(store: Store, said: int, console: Console) -> None:
    """Name what this process found damaged, but for the first `said` findings."""
    for line in store.damage[said:]:
        _say(console, f"warning: {line}")


def _say(console: Console, line: str) -> None:
    log.info(line)
    print_as_is(console, line)


class _Mirrors:
    """The tracker of each experiment that wants one, started with its first level."""

    def __init__(self, progress: Progress, macs: KeptMacs):
        self._progress = progress
        self._macs = macs
        self._open: dict[str, Mirror] = {}
        self._settings = {
            spec.experiment.experiment: wandb
            for spec in progress.plan.specs
            if (wandb := spec.experiment.tracking.wandb) is not None
            and effective_mode(wandb.mode, os.environ) != "disabled"
        }
        self._plans = {experiment: progress.plan.alone(experiment) for experiment in self._settings}

    @property
    def wanted(self) -> bool:
        """Whether anything is mirrored at all."""
        return bool(self._settings)

    def level(self, trajectory: Trajectory, level: FinishedLevel) -> None:
        """Mirror a level to the first experiment that reads it and wants a tracker."""
        for use in self._progress.plan.all_uses(trajectory):
            if use.experiment in self._settings:
                info = _run_info(self._plans[use.experiment], trajectory.key, use.experiment)
                self._mirror(use.experiment).level(info, level_record(level))
                return

    def finish(self, reports: Sequence[Report], say: Callable[[str], None]) -> None:
        """Send each comparison, end the mirrors and say once how that went."""
        for report in reports:
            if report.experiment in self._settings:
                networks = self._settings[report.experiment].networks
                alone = self._progress.alone(report.experiment)
                self._mirror(report.experiment).attach(
                    attached(alone, report, self._macs, networks=networks)
                )
        for line in dict.fromkeys(mirror.finish() for mirror in self._open.values()):
            say(line)

    def _mirror(self, experiment: str) -> Mirror:
        if experiment not in self._open:
            store = self._progress.store.root
            self._open[experiment] = Mirror(self._settings[experiment], store)
        return self._open[experiment]


def _run_info(plan: Plan, key: str, experiment: str) -> RunInfo:
    """A trajectory as the experiment alone knows it, whose `plan` it is."""
    trajectory = plan.trajectories[key]
    return RunInfo(
        run_id=f"{experiment}-{trajectory.key[:12]}",
        experiment=experiment,
        name=trajectory.label,
        job_type="+".join(trajectory.roles),
        config={
            "trajectory": trajectory.key,
            "variant": plan.variant(trajectory),
            "used_by": plan.used_by(trajectory),
            **trajectory.identity.model_dump(mode="json"),
        },
    )
