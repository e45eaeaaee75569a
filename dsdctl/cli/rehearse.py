"""`dsdctl rehearse`: whether a plan trains and how fast, before hours are spent on it."""

from typing import TYPE_CHECKING, Annotated

import typer

from dsdctl.cli.console import SOME_FAILED, err, notify, print_line, print_result, reported, warn
from dsdctl.cli.options import (
    Device,
    DeviceChoice,
    Recipes,
    Seeds,
    Specs,
    StoreOption,
    Threads,
    make_plan_to_run,
    pass_on_warnings,
)
from dsdctl.errors import WorkError
from dsdctl.store.place import DEFAULT_STORE

if TYPE_CHECKING:
    from dsdctl.results import Rehearsed


def rehearse(
    specs: Specs,
    store: StoreOption = DEFAULT_STORE,
    batches: Annotated[
        int | None,
        typer.Option(
            "--batches",
            min=1,
            max=1_000_000,
            help="batches of each training; default: 300, or 100 past the warm-up if that is more",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, help="processes of the run whose time is estimated, as in `plan`"
        ),
    ] = None,
    device: Device = DeviceChoice.auto,
    threads: Threads = 1,
    recipe: Recipes = None,
    seed: Seeds = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was seen as JSON")] = False,
) -> None:
    """Train each distinct network of a plan for a few hundred batches: does it diverge, how fast is
    it, how much memory does it need? Weights are thrown away; speeds are kept for `plan`."""
    with reported():
        made = make_plan_to_run(specs, recipe, seed, runs=True)
        pass_on_warnings(made.specs)
        from dsdctl.cli.listener import ConsoleProgress
        from dsdctl.cost.forecast import seconds_estimate
        from dsdctl.cost.macs import MacCache
        from dsdctl.plan.progress import Progress
        from dsdctl.report.plan.rehearsal import rehearsal_lines, summarize_rehearsal
        from dsdctl.run.rehearsal import rehearse as rehearse_plan
        from dsdctl.run.rehearsal import update_rates
        from dsdctl.store.store import Store
        from dsdctl.system.devices import choose_device, default_jobs

        where = choose_device(device.value)
        slots = jobs or default_jobs(where)
        opened = Store(store)
        opened.open_for_writing()
        outcomes = rehearse_plan(made, opened, where, threads, batches, ConsoleProgress(err()))
        macs = MacCache(opened)
        try:
            update_rates(opened, where, outcomes, macs)
        except (OSError, WorkError) as error:
            warn([f"rates not saved: {error}"])
        progress = Progress(made, Store(store))
        warn(progress.store.damage)
        seconds = seconds_estimate(progress, macs, where, slots)
        if as_json:
            found = summarize_rehearsal(outcomes, progress, where, seconds)
            print_result(found.model_dump_json(by_alias=True, indent=2))
        else:
            for line in rehearsal_lines(outcomes, progress, where, slots, seconds):
                print_line(line)
        _end([rehearsed for _, rehearsed in outcomes])


def _end(rehearsed: "list[Rehearsed]") -> None:
    """Exit as what was seen asks for."""
    from dsdctl.results import AGAINST_DIVERGENCE

    diverging = sum(one.diverged is not None for one in rehearsed)
    failed = sum(one.failure is not None for one in rehearsed)
    of_all = f"of {len(rehearsed)} distinct trainings"
    if diverging:
        notify(f"error: {diverging} {of_all} diverge; try {AGAINST_DIVERGENCE}")
    if failed:
        notify(f"error: {failed} {of_all} failed")
    if diverging or failed:
        raise typer.Exit(SOME_FAILED)
