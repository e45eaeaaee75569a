"""`dsdctl plan`: what a run would do and cost."""

from pathlib import Path
from typing import Annotated

import typer

from dsdctl.cli.console import out, print_result, reported, write
from dsdctl.cli.options import (
    Device,
    DeviceChoice,
    Jobs,
    Recipes,
    Seeds,
    Specs,
    StoreOption,
    make_plan_to_run,
    pass_on_warnings,
    progress_of,
)
from dsdctl.errors import InputError
from dsdctl.store.place import DEFAULT_STORE


def plan(
    specs: Specs,
    store: StoreOption = DEFAULT_STORE,
    recipe: Recipes = None,
    seed: Seeds = None,
    jobs: Jobs = None,
    device: Device = DeviceChoice.auto,
    why: Annotated[
        bool,
        typer.Option(
            "--why", help="also show how missing levels differ from the nearest finished ones"
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
    graph: Annotated[
        Path | None, typer.Option("--graph", help="write a Graphviz file of the plan")
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, max=100_000, help="also show what this many GPUs would take"),
    ] = None,
    images_per_second: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            help="with --gpus: images/s at which one GPU trains the first row's student without a "
            "teacher; default: the speed of this store's levels on such a device",
        ),
    ] = None,
) -> None:
    """Show what a run would do and cost. Runs nothing, and writes nothing but --graph's file."""
    with reported():
        if why and as_json:
            raise InputError("--why: not with --json")
        made = make_plan_to_run(specs, recipe, seed, runs=False)
        pass_on_warnings(made.specs)
        from dsdctl.cost.forecast import plan_for_cluster, seconds_estimate
        from dsdctl.cost.macs import MacCache
        from dsdctl.report.plan import graph as plan_graph
        from dsdctl.report.plan import summary as plan_summary
        from dsdctl.report.plan import tables
        from dsdctl.report.plan.cluster import rich_cluster
        from dsdctl.system.devices import choose_device, default_jobs

        where = choose_device(device.value)
        slots = jobs or default_jobs(where)
        progress = progress_of(made, store, may_be_absent=True)
        macs = MacCache(progress.store)
        seconds = seconds_estimate(progress, macs, where, slots)
        on = "cuda" if device is DeviceChoice.auto else device.value
        cluster = plan_for_cluster(progress, macs, on, gpus, images_per_second)
        summary = plan_summary.summarize(progress, macs, seconds, cluster)
        if graph is not None:
            write(graph, plan_graph.graph(summary))
        if as_json:
            print_result(summary.model_dump_json(by_alias=True, indent=2))
        else:
            width = out().width
            out().print(tables.rich_plan(progress, summary, macs, where, slots, width))
            if cluster is not None:
                out().print(rich_cluster(cluster))
            if why:
                from dsdctl.plan.reuse import missing
                from dsdctl.report.plan.reuse import rich_reuse

                out().print(rich_reuse(list(missing(progress))))
