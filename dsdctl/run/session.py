"""Runs what is missing of a plan, and tells a listener what happens."""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path

import dsdctl
from dsdctl.cost import throughput
from dsdctl.cost.ledger import level_pflops_executed
from dsdctl.cost.macs import MacCache
from dsdctl.cost.remaining import levels_to_run
from dsdctl.data.prepare import fallback_folder
from dsdctl.errors import WorkError
from dsdctl.keys import key_of
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.run.engines.base import Engine
from dsdctl.run.event_log import EventLog, event_log
from dsdctl.run.events import Event, event_line
from dsdctl.run.listener import RunListener
from dsdctl.run.log import log, log_decisions, log_plan, log_to
from dsdctl.run.options import Finished, RunOptions
from dsdctl.run.own import keep_inspections
from dsdctl.run.preflight import check_disk, check_teacher_files
from dsdctl.run.prepare import prepare_all
from dsdctl.run.scheduler import Scheduler
from dsdctl.store.maintenance import drop_stale_checkpoints
from dsdctl.store.store import Store
from dsdctl.worker.tasks import WorkerConfig


def run_plan(plan: Plan, options: RunOptions, listener: RunListener) -> Finished:
    """Run what is missing of `plan`; results go to the store, all else to `listener`.

    Raises InputError where the store cannot be written or its disk is too small.
    """
    check_teacher_files(plan)
    store = Store(options.store)
    store.open_for_writing()
    keep_inspections(plan, store)
    with ExitStack() as stack:
        log_file = stack.enter_context(log_to(options.store / "logs", verbose=options.verbose))
        log.info("dsdctl %s, pid %d, %s", dsdctl.__version__, os.getpid(), options)
        log.info("specs: %s", ", ".join(str(spec.file) for spec in plan.specs))
        session = _Session(Progress(plan, store), options, listener)
        missing = levels_to_run(session.progress, options.only)
        log_plan(session.progress, missing)
        events = stack.enter_context(_event_log(plan, options, log_file, missing))
        failures = session.run(missing, events)
        finished = session.finish(failures)
        run = len(session.observed.levels)
        log.info("ended: %d levels run, %d trajectories failed", run, len(failures))
        events.write("run-ended", levels_run=run, trajectories_failed=len(failures))
        if failures:
            session.notify(f"log: {log_file}")
    return finished


class _Session:
    """One run of a plan."""

    def __init__(self, progress: Progress, options: RunOptions, listener: RunListener):
        self.progress = progress
        self.observed = throughput.RunTimings()
        self._options = options
        self._listener = listener
        self._macs = MacCache(progress.store)
        self._told = 0
        self._tell_damage()
        listener.begun(progress, self._macs)

    def run(self, missing: Mapping[str, int], events: EventLog) -> dict[str, str]:
        """Run what is missing; return why work failed, by trajectory."""
        options, plan = self._options, self.progress.plan
        if not (sum(missing.values()) or options.only):
            return {}
        check_disk(self.progress, options)
        costs = {k: level_pflops_executed(t, self._macs) for k, t in plan.trajectories.items()}
        self._save_macs()
        wanted = [plan.trajectories[key] for key, count in missing.items() if count or options.only]
        unprepared = {} if options.backend.prepares_data else self._prepare(wanted, events)
        with closing(_engine(options)) as engine, self._listener.working(sum(missing.values())):
            scheduler = Scheduler(
                self.progress,
                engine,
                lambda event: self._take(event, events),
                costs,
                fail_fast=options.fail_fast,
                only=options.only,
            )
            scheduler.failures.update(unprepared)
            self.observed.begin()
            scheduler.run()
        return scheduler.failures

    def finish(self, failures: dict[str, str]) -> Finished:
        """Let the listener draw its conclusions."""
        options = self._options
        compared = not options.only and (options.after_jobs or bool(self.observed.levels))
        finished = Finished(self.progress, self._macs, failures, compared)
        self._listener.ended(finished)
        self._save_macs()
        self._tidy()
        self._tell_damage()
        log_decisions(self.progress)
        return finished

    def notify(self, line: str) -> None:
        """Tell people and the log."""
        log.info(line)
        self._listener.notify(line)

    def _take(self, event: Event, events: EventLog) -> None:
        log.info("%s %s: %s", event.kind, key_of(event.task.identity), event_line(event))
        if event.trace is not None:
            log.error(event.trace)
        events.add(event)
        self._listener.happened(event)
        if event.kind == "finished":
            self.observed.add(event.trajectory, event.level)
            self._calibrate()

    def _prepare(self, trajectories: Sequence[Trajectory], events: EventLog) -> dict[str, str]:
        """Make their data ready; return what failed, by trajectory, once the logs have it."""
        fallback = fallback_folder(self._options.store)
        failures = prepare_all(trajectories, fallback, self._listener)
        for trajectory in trajectories:
            key, label, reason = trajectory.key, trajectory.label, failures.get(trajectory.key)
            if reason is not None:
                log.error("failed %s (%s): %s", key, label, reason)
                events.write("failed", trajectory=key, label=label, reason=reason)
        return failures

    def _tell_damage(self) -> None:
        """Name what was found damaged and is not told yet."""
        damage = self.progress.store.damage
        for line in damage[self._told :]:
            self.notify(f"warning: {line}")
        self._told = len(damage)

    def _save_macs(self) -> None:
        with _no_reason_to_fail("MAC counts not saved"):
            self._macs.save()

    def _tidy(self) -> None:
        """Delete what killed workers left."""
        with _no_reason_to_fail("stale checkpoints not deleted"):
            drop_stale_checkpoints(self.progress.store)

    def _calibrate(self) -> None:
        """Keep the rates for later plans."""
        with _no_reason_to_fail("rates not saved"):
            device = self._options.device
            throughput.update_rates(self.progress.store, device, self.observed, self._macs)


@contextmanager
def _no_reason_to_fail(what: str) -> Iterator[None]:
    """Log a failure of what only helps later commands, and go on."""
    try:
        yield
    except (OSError, WorkError) as error:
        log.warning("%s: %s", what, error)


def _engine(options: RunOptions) -> Engine:
    config = WorkerConfig(
        store=str(options.store),
        device=options.device,
        threads=options.threads,
        checkpoint_every=options.checkpoint_every,
        memory_budget=int(options.memory_gib * 2**30),
    )
    return options.backend.engine(config, options.jobs, options.grace)


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
