"""`dsdctl run`: here, on a Ray cluster, or as jobs of Slurm."""

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, ExitStack, closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdctl.cli_options import Device, DeviceChoice, Jobs, Memory, Recipes, Seeds, Specs, Threads
from dsdctl.cli_plan import make_plan_of, pass_on_warnings, progress_of
from dsdctl.cli_store import DEFAULT_STORE, StoreOption
from dsdctl.console import (
    SOME_FAILED,
    err,
    out,
    print_line,
    print_plain,
    reported,
    say,
    warn,
)
from dsdctl.errors import InputError

if TYPE_CHECKING:
    from dsdctl.engines.ray import RayCluster
    from dsdctl.plan.plan import Plan
    from dsdctl.run import Finished


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
            help="Ray cluster, auto: one that runs on this machine; without it one is started here",
        ),
    ] = None,
    cluster: Annotated[
        Path, typer.Option("--cluster", metavar="FILE", help="how Slurm's jobs are submitted")
    ] = Path("cluster.yaml"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the scripts for Slurm, submit nothing")
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
            help="how often a level in flight is kept; 0: after every epoch, inf: when stopped",
        ),
    ] = 300.0,
    grace: Annotated[
        float,
        typer.Option(
            "--grace",
            min=0,
            max=86_400,
            metavar="SECONDS",
            help="how long an interrupted level may take to its next checkpoint",
        ),
    ] = 60.0,
    memory: Memory = 8.0,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="start nothing more after a failure")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", help="print the log to standard error")] = False,
) -> None:
    """Run what is missing, and print the comparison."""
    with reported(resumable=True):
        _check_options(engine, context)
        made = make_plan_of(specs, recipe, seed)
        pass_on_warnings(made.specs)
        from dsdctl.plan.plan import keys_beginning

        only = keys_beginning(made, trajectory or ())
        if engine is EngineChoice.slurm:
            from dsdctl.submission import submit

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
        from dsdctl.run import RunOptions, run_plan
        from dsdctl.system.devices import choose_device, default_jobs

        with ExitStack() as stack:
            ray = None
            if engine is EngineChoice.ray:
                ray = stack.enter_context(_ray_cluster(address, jobs, threads))
            # Of what Slurm's jobs have finished nothing is left to run, here of all places.
            wish = DeviceChoice.cpu if engine is EngineChoice.slurm else device
            where = ray.choose_device(wish.value) if ray else choose_device(wish.value)
            slots = ray.slots(where, threads) if ray else jobs or default_jobs(where)
            if ray and not ray.has_room(where, threads):
                needed = f"{threads} CPUs" + (" and a GPU" if where == "cuda" else "")
                warn([f"no node of {ray} has {needed}, which a level takes; waiting for one"])
            options = RunOptions(
                store, where, slots, threads, checkpoint_every, fail_fast, memory, verbose, ray,
                only, after_jobs=engine is EngineChoice.slurm, grace=grace,
            )  # fmt: skip
            finished = run_plan(made, options, err())
        if only:
            _end_with_status(made, store, only, finished.failures.values())
        else:
            _end_with_comparison(finished)


def _ray_cluster(
    address: str | None, jobs: int | None, threads: int
) -> "AbstractContextManager[RayCluster]":
    """Connect to a cluster, or start one; that is ended with the context, and said."""
    from dsdctl.engines.ray import RayCluster

    cluster = RayCluster(address, jobs, threads)
    if cluster.own:
        say(f"{cluster}: started with {cluster.cores} cores, ends with this run")
    return closing(cluster)


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


def _end_with_comparison(finished: "Finished") -> None:
    from dsdctl.report.render import render

    print_plain(render(finished.reports, "rich", out()))
    unfinished = [report.experiment for report in finished.reports if not report.complete]
    if finished.failures or unfinished:
        for failure in dict.fromkeys(finished.failures.values()):
            say(f"error: {failure}")
        names = ", ".join(unfinished)
        say(f"error: the comparison of {names} is not complete")
        raise typer.Exit(SOME_FAILED)


def _end_with_status(
    made: "Plan", store: Path, only: Collection[str], failures: Iterable[str]
) -> None:
    """Print how far the chosen trajectories have come, the end of a run of them alone."""
    from dsdctl.report.status import status_lines

    progress = progress_of(made, store)
    for line in status_lines(progress, {}, only):
        print_line(line)
    for failure in dict.fromkeys(failures):
        say(f"error: {failure}")
    if any(trajectory.key in only for trajectory in progress.unfinished()):
        raise typer.Exit(SOME_FAILED)
