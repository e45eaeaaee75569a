"""`dsdctl run`: here, on a Ray cluster, or as jobs of Slurm."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdctl.cli.console import (
    SOME_FAILED,
    err,
    notify,
    out,
    print_line,
    print_result,
    reported,
    warn,
)
from dsdctl.cli.options import (
    Device,
    DeviceChoice,
    Jobs,
    Memory,
    Recipes,
    Seeds,
    Specs,
    StoreOption,
    Threads,
    make_plan_to_run,
    pass_on_warnings,
    progress_of,
)
from dsdctl.errors import InputError
from dsdctl.store.place import DEFAULT_STORE

if TYPE_CHECKING:
    from dsdctl.plan.plan import Plan
    from dsdctl.report.table import Report
    from dsdctl.run.backends import Backend


class EngineChoice(StrEnum):
    """Where levels run."""

    local = "local"
    ray = "ray"
    slurm = "slurm"


_ENGINES = {"address": "ray", "cluster": "slurm", "dry_run": "slurm"}
"""Options that say nothing but with one engine."""

_NOT_FOR_JOBS = {
    **dict.fromkeys(("jobs", "trajectory", "fail_fast"), "where each trajectory is a job"),
    "grace": "where it is `warning_seconds` of cluster.yaml",
}
"""Options that say nothing with Slurm, and why."""


def run(
    context: typer.Context,
    specs: Specs,
    store: StoreOption = DEFAULT_STORE,
    engine: Annotated[
        EngineChoice, typer.Option("--engine", help="where levels run")
    ] = EngineChoice.local,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            envvar="RAY_ADDRESS",
            help="Ray cluster; default: the one that `ray start` made here, else a new one",
        ),
    ] = None,
    cluster: Annotated[
        Path, typer.Option("--cluster", metavar="FILE", help="settings of Slurm's jobs")
    ] = Path("cluster.yaml"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the sbatch scripts, submit nothing")
    ] = False,
    trajectory: Annotated[
        list[str] | None,
        typer.Option("--trajectory", metavar="KEY", help="only this trajectory (repeatable)"),
    ] = None,
    jobs: Jobs = None,
    device: Device = DeviceChoice.auto,
    threads: Threads = 1,
    recipe: Recipes = None,
    seed: Seeds = None,
    checkpoint_every: Annotated[
        float,
        typer.Option(
            "--checkpoint-every",
            min=0,
            metavar="SECONDS",
            help="how often running levels are checkpointed; 0: every epoch, inf: when stopped",
        ),
    ] = 300.0,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            min=0,
            max=86_400,
            metavar="SECONDS",
            help="how long an interrupted level may take to write its last checkpoint",
        ),
    ] = 60.0,
    memory: Memory = 8.0,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="start no further work after a failure")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", help="print the log to standard error")] = False,
) -> None:
    """Run what is missing, and print the comparison."""
    with reported(resumable=True):
        _check_options(engine, context)
        made = make_plan_to_run(specs, recipe, seed, runs=True)
        pass_on_warnings(made.specs)
        from dsdctl.plan.plan import keys_beginning

        only = keys_beginning(made, trajectory or ())
        if engine is EngineChoice.slurm:
            from dsdctl.cli.slurm import submit

            options_of_jobs: dict[str, Iterable[object]] = {
                "--device": [device.value],
                "--checkpoint-every": [checkpoint_every],
                "--memory": [memory],
                "--recipe": recipe or [],
                "--seed": seed or [],
            }
            if submit(
                made, specs, store, cluster, options_of_jobs, threads=threads, dry_run=dry_run
            ):
                return
        from dsdctl.cli.listener import ConsoleListener
        from dsdctl.run.options import RunOptions
        from dsdctl.run.session import run_plan

        listener = ConsoleListener(err())
        with _backend(engine, address, jobs, threads) as backend:
            # Of what Slurm's jobs have finished nothing is left to run, here of all places.
            wish = DeviceChoice.cpu if engine is EngineChoice.slurm else device
            where = backend.device(wish.value)
            if warning := backend.warning(where, threads):
                warn([warning])
            options = RunOptions(
                store=store,
                backend=backend,
                device=where,
                jobs=backend.slots(where, threads),
                threads=threads,
                checkpoint_every=checkpoint_every,
                fail_fast=fail_fast,
                memory_gib=memory,
                verbose=verbose,
                only=only,
                after_jobs=engine is EngineChoice.slurm,
                grace=grace,
            )
            failures = list(dict.fromkeys(run_plan(made, options, listener).failures.values()))
        if only:
            _end_with_status(made, store, only, failures)
        else:
            _end_with_comparison(listener.reports, failures)


@contextmanager
def _backend(
    engine: EngineChoice, address: str | None, jobs: int | None, threads: int
) -> Iterator["Backend"]:
    """Where to run. That a cluster was started, which ends with the context, is said."""
    from dsdctl.run.backends import LocalBackend, ray_backend

    if engine is not EngineChoice.ray:
        yield LocalBackend(jobs)
        return
    with ray_backend(address, jobs, threads) as backend:
        cluster = backend.cluster
        if cluster.own:
            notify(f"{cluster}: started with {cluster.cores} cores, ends with this run")
        yield backend


def _check_options(engine: EngineChoice, context: typer.Context) -> None:
    """Refuse what was asked for and would say nothing. Raises InputError."""
    problems = []
    for name in context.params:
        source, option = context.get_parameter_source(name), "--" + name.replace("_", "-")
        if source is None or source.name != "COMMANDLINE":
            continue
        if _ENGINES.get(name, engine) != engine:
            problems.append(f"{option}: only with --engine {_ENGINES[name]}")
        if engine is EngineChoice.slurm and name in _NOT_FOR_JOBS:
            problems.append(f"{option}: not with --engine slurm, {_NOT_FOR_JOBS[name]}")
    if problems:
        raise InputError(*problems)


def _end_with_comparison(reports: "Sequence[Report]", failures: Sequence[str]) -> None:
    from dsdctl.report.formats.text import render_brief

    print_result(render_brief(reports, out()))
    unfinished = [report.experiment for report in reports if not report.complete]
    if failures or unfinished:
        for failure in failures:
            notify(f"error: {failure}")
        notify(f"error: the comparison of {', '.join(unfinished)} is not complete")
        raise typer.Exit(SOME_FAILED)


def _end_with_status(
    made: "Plan", store: Path, only: Collection[str], failures: Sequence[str]
) -> None:
    """Print how far the chosen trajectories have come, the end of a run of them alone."""
    from dsdctl.plan.next_work import unfinished
    from dsdctl.report.status import status_lines

    progress = progress_of(made, store)
    for line in status_lines(progress, {}, only):
        print_line(line)
    for failure in failures:
        notify(f"error: {failure}")
    if any(trajectory.key in only for trajectory in unfinished(progress)):
        raise typer.Exit(SOME_FAILED)
