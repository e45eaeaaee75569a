"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dsdctl import (
    __version__,
    cli_bench,
    cli_export,
    cli_rehearse,
    cli_report,
    cli_run,
    cli_store,
)
from dsdctl.cli_options import Device, DeviceChoice, Interval, Jobs, Recipes, Seeds, Specs
from dsdctl.cli_plan import make_plan_of, pass_on_warnings, progress_of
from dsdctl.cli_store import DEFAULT_STORE, StoreOption
from dsdctl.console import (
    SOME_FAILED,
    encode_anything,
    out,
    print_line,
    print_plain,
    reported,
    write,
    written_out,
)
from dsdctl.ml.kernels.choice import kernel_mode

app = typer.Typer(
    name="dsdctl",
    help="Experiments on sparse double descent: one YAML file in, a comparison table out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_store.app, name="store")


def print_version(wanted: bool) -> None:
    """Print dsdctl's version, and those that results are known by, and end."""
    if wanted:
        from dsdctl.keys import NUMERICS_VERSION, SCHEMA_VERSION

        print_line(f"dsdctl {__version__} (schema {SCHEMA_VERSION}, numerics {NUMERICS_VERSION})")
        raise typer.Exit


@app.callback(help=app.info.help)
def check_environment(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=print_version,
            is_eager=True,
            help="print the version, and those of what is stored, and end",
        ),
    ] = False,
) -> None:
    """Refuse what is no setting, before anything is done."""
    with reported():
        kernel_mode()


class SchemaOf(StrEnum):
    """Which file a schema is of."""

    spec = "spec"
    recipe = "recipe"


@app.command()
def validate(specs: Specs) -> None:
    """Check specs and the recipes that they name; print every problem at once."""
    with reported():
        from dsdctl.plan.resolve import resolve_all

        found = resolve_all(specs)
        pass_on_warnings(found)
        for spec in found:
            count = len(spec.rows)
            line = f"{spec.file}: ok, {count} row{'s' * (count != 1)}"
            print_line(line)


@app.command()
def plan(
    specs: Specs,
    store: StoreOption = DEFAULT_STORE,
    recipe: Recipes = None,
    seed: Seeds = None,
    jobs: Jobs = None,
    device: Device = DeviceChoice.auto,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
    graph: Annotated[
        Path | None, typer.Option("--graph", help="write a Graphviz file of the plan")
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, max=100_000, help="also show what so many GPUs would take"),
    ] = None,
    images_per_second: Annotated[
        float | None,
        typer.Option(
            min=1e-3,
            help="with --gpus: on how many images a second one GPU trains the first row's student, "
            "undistilled; without it: as fast as the store's levels on such a device were",
        ),
    ] = None,
) -> None:
    """Show what a run would do and cost. Runs nothing, and writes nothing but --graph's file."""
    with reported():
        made = make_plan_of(specs, recipe, seed)
        pass_on_warnings(made.specs)
        from dsdctl.cost.forecast import plan_for_cluster, seconds_estimate
        from dsdctl.cost.macs import KeptMacs
        from dsdctl.report import plan_graph, plan_summary, plan_view
        from dsdctl.report.cluster_view import rich_cluster
        from dsdctl.system.devices import choose_device, default_jobs

        where = choose_device(device.value)
        slots = jobs or default_jobs(where)
        progress = progress_of(made, store, may_be_absent=True)
        macs = KeptMacs(progress.store)
        seconds = seconds_estimate(progress, macs, where, slots)
        on = "cuda" if device is DeviceChoice.auto else device.value
        cluster = plan_for_cluster(progress, macs, on, gpus, images_per_second)
        summary = plan_summary.summarise(progress, macs, seconds, cluster)
        if graph is not None:
            write(graph, plan_graph.graph(summary))
        if as_json:
            print_plain(summary.model_dump_json(by_alias=True, indent=2))
        else:
            out().print(plan_view.rich_plan(progress, summary, macs, where, slots))
            if cluster is not None:
                out().print(rich_cluster(cluster))


app.command()(cli_rehearse.rehearse)


app.command()(cli_run.run)


app.command()(cli_report.report)


@app.command()
def status(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="experiment file")],
    store: StoreOption = DEFAULT_STORE,
    watch: Annotated[
        bool, typer.Option("--watch", help="stay until all is done, and show what changes")
    ] = False,
    interval: Interval = 2.0,
) -> None:
    """Show how far each trajectory of a spec has come."""
    with reported():
        made = make_plan_of([spec], None, None)
        from dsdctl.jobs import jobs_of
        from dsdctl.report.status import status_lines

        progress = progress_of(made, store)
        if watch:
            from dsdctl.watch import watch as follow

            follow(progress, out(), interval)
            return
        for line in status_lines(progress, jobs_of(progress.store)):
            print_line(line)


app.command()(cli_export.export)


@app.command()
def recipes() -> None:
    """List the packaged recipes."""
    with reported():
        from dsdctl.spec.experiment import Recipe
        from dsdctl.spec.problems import validate as check
        from dsdctl.spec.recipe_files import packaged_recipes
        from dsdctl.spec.yaml import read_document

        for file in sorted(packaged_recipes().glob("*.yaml")):
            found = check(Recipe, read_document(file))
            print_line(f"{found.recipe:20} {found.title}")


@app.command()
def schema(
    of: Annotated[SchemaOf, typer.Argument(help="which file")] = SchemaOf.spec,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print a page about both, for people")
    ] = False,
) -> None:
    """Print the JSON Schema of a spec or recipe, for editors."""
    with reported():
        from dsdctl.reference import reference
        from dsdctl.spec.experiment import Experiment, Recipe

        if markdown:
            print_plain(reference())
            return
        model = Experiment if of is SchemaOf.spec else Recipe
        print_plain(json.dumps(model.model_json_schema(), indent=2))


app.command()(cli_bench.bench)


@app.command()
def doctor(context: typer.Context, store: StoreOption = DEFAULT_STORE) -> None:
    """Say whether this machine is ready, and check every byte of the store."""
    with reported():
        from dsdctl.doctor import examine
        from dsdctl.store.store import Store

        source = context.get_parameter_source("store")
        if source is not None and source.name == "COMMANDLINE":  # asked for, not a default
            Store(store).require()
        healthy = True
        for line, good in examine(store):
            healthy = healthy and good
            print_line(f"{'ok  ' if good else 'BAD '} {line}")
        if not healthy:
            raise typer.Exit(SOME_FAILED)


def main() -> None:
    """Do what the command line says."""
    encode_anything()
    try:
        app()
    except SystemExit as end:
        sys.exit(written_out(end.code))
