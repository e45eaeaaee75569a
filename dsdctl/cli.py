"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dsdctl import cli_export, cli_store
from dsdctl.cli_plan import make_plan_of, progress_of
from dsdctl.cli_store import DEFAULT_STORE, StoreOption
from dsdctl.console import (
    SOME_FAILED,
    encode_anything,
    err,
    out,
    print_line,
    print_plain,
    reported,
    say,
    terminable,
    write,
)
from dsdctl.errors import InputError

app = typer.Typer(
    name="dsdctl",
    help="Experiments on sparse double descent: one YAML file in, a comparison table out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_store.app, name="store")


class DeviceChoice(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class EngineChoice(StrEnum):
    """Where levels run."""

    local = "local"


class Format(StrEnum):
    """How to print a report."""

    rich = "rich"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    json = "json"
    html = "html"


ENDINGS = {".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json", ".html": "html"}
"""What the name of an output file says of its format."""


class SchemaOf(StrEnum):
    """Which file a schema is of."""

    spec = "spec"
    recipe = "recipe"


Specs = Annotated[list[Path], typer.Argument(metavar="SPEC...", help="experiment files")]
Recipes = Annotated[
    list[str] | None, typer.Option("--recipe", help="only this recipe (repeatable)")
]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="only this seed (repeatable)")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", min=1, help="processes; default: one a core on a CPU, one on a GPU"),
]
Memory = Annotated[
    float, typer.Option(min=0, metavar="GIB", help="data sets that take more stay on the disk")
]
Device = Annotated[DeviceChoice, typer.Option("--device", help="where to compute")]


@app.command()
def validate(specs: Specs) -> None:
    """Check specs and the recipes that they name; print every problem at once."""
    with reported():
        from dsdctl.resolve import resolve_all

        for spec in resolve_all(specs):
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
) -> None:
    """Show what a run would do and cost. Runs nothing, and writes nothing but --graph's file."""
    with reported():
        made = make_plan_of(specs, recipe, seed)
        from dsdctl import calibration
        from dsdctl.cost import fvcore_macs
        from dsdctl.report import plan_summary, plan_view
        from dsdctl.run import choose_device, default_jobs

        where = choose_device(device.value)
        slots = jobs or default_jobs(where)
        progress = progress_of(made, store, may_be_absent=True)
        seconds = calibration.seconds_per_level(
            progress.store, where, made.trajectories.values(), fvcore_macs
        )
        summary = plan_summary.summarise(progress, fvcore_macs, seconds, slots)
        if graph is not None:
            write(graph, plan_view.graph(summary))
        if as_json:
            print_plain(summary.model_dump_json(by_alias=True, indent=2))
        else:
            out().print(plan_view.rich_plan(progress, summary, fvcore_macs, where, slots))


@app.command()
def run(
    specs: Specs,
    store: StoreOption = DEFAULT_STORE,
    engine: Annotated[
        EngineChoice, typer.Option("--engine", help="where levels run")
    ] = EngineChoice.local,
    jobs: Jobs = None,
    device: Device = DeviceChoice.auto,
    threads: Annotated[
        int, typer.Option("--threads", min=1, max=1024, help="threads of a process on a CPU")
    ] = 1,
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
    memory: Memory = 8.0,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="start nothing more after a failure")
    ] = False,
    verbose: Annotated[bool, typer.Option("-v", help="print the log to standard error")] = False,
) -> None:
    """Run what is missing, and print the comparison."""
    assert engine is EngineChoice.local
    with reported():
        made = make_plan_of(specs, recipe, seed)
        from dsdctl.report.render import render
        from dsdctl.run import RunOptions, choose_device, default_jobs, run_plan

        where = choose_device(device.value)
        slots = jobs or default_jobs(where)
        options = RunOptions(
            store, where, slots, threads, checkpoint_every, fail_fast, memory, verbose
        )
        with terminable():
            finished = run_plan(made, options, err())
        print_plain(render(finished.reports, "rich", out()))
        unfinished = [report.experiment for report in finished.reports if not report.complete]
        if finished.failures or unfinished:
            for failure in dict.fromkeys(finished.failures.values()):
                say(f"error: {failure}")
            names = ", ".join(unfinished)
            say(f"error: the comparison of {names} is not complete")
            raise typer.Exit(SOME_FAILED)


@app.command()
def report(
    specs: Specs,
    store: StoreOption = DEFAULT_STORE,
    style: Annotated[
        Format | None,
        typer.Option("--format", help="how to print it; default: by the ending of --output"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="write to this file instead")
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="also draw the figures, as SVG and PNG"),
    ] = None,
    recipe: Recipes = None,
    seed: Seeds = None,
    wandb: Annotated[
        bool, typer.Option("--wandb", help="also mirror to W&B what it has not seen yet")
    ] = False,
    show: Annotated[
        bool, typer.Option("--open", help="also open the file in a browser, where it is HTML")
    ] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="of two specs, how the second one differs")
    ] = False,
) -> None:
    """Print the comparison, complete or not, from what the store holds."""
    with reported():
        wanted = style.value if style else ENDINGS.get(output.suffix if output else "", "rich")
        if show and (output is None or wanted != "html"):
            raise InputError("--open: needs an HTML file (--output report.html)")
        if compare:
            if figures is not None or wandb:
                raise InputError("--compare: not with --figures or --wandb")
            from dsdctl.report.compare_view import compared

            plans = [make_plan_of([spec], recipe, seed) for spec in specs]
            # That the store is absent is said once.
            sides = [progress_of(one, store, may_be_absent=one is not plans[0]) for one in plans]
            _deliver(compared(sides, wanted, out()), output)
            return
        made = make_plan_of(specs, recipe, seed)
        from dsdctl.cost import fvcore_macs
        from dsdctl.report.render import render
        from dsdctl.report.table import make_report

        progress = progress_of(made, store)
        if wandb:
            from dsdctl.run import replay

            progress.store.require()
            replay(progress, store, err())
        reports = make_report(progress, fvcore_macs)
        if wanted == "html":
            from dsdctl.report.html.page import html

            text = html(progress, reports, fvcore_macs, _filters(recipe, seed))
        else:
            text = render(reports, wanted, out())
        _deliver(text, output)
        if show:
            typer.launch(str(output))
        if figures is not None:
            from dsdctl.report.figures.draw import save_figures

            for line in save_figures(reports, figures):
                err().print(line, markup=False, soft_wrap=True)


@app.command()
def status(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="experiment file")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show how far each trajectory of a spec has come."""
    with reported():
        made = make_plan_of([spec], None, None)
        from dsdctl.report.status import status_lines

        progress = progress_of(made, store)
        for line in status_lines(progress):
            print_line(line)


app.command()(cli_export.export)


@app.command()
def recipes() -> None:
    """List the packaged recipes."""
    with reported():
        from dsdctl.loading import read_document
        from dsdctl.loading import validate as check
        from dsdctl.resolve import packaged_recipes
        from dsdctl.spec import Recipe

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
    from dsdctl.reference import reference
    from dsdctl.spec import Experiment, Recipe

    if markdown:
        print_plain(reference())
        return
    model = Experiment if of is SchemaOf.spec else Recipe
    print_plain(json.dumps(model.model_json_schema(), indent=2))


@app.command()
def bench(
    device: Device = DeviceChoice.auto,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="processes of ours at once; a core each, one on a GPU"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="an .npz of x_train (N, 32, 32, 3) uint8 and y_train"),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="of each measurement")] = 5,
    batches: Annotated[
        int | None,
        typer.Option("--batches", min=2, help="of 128 images a measurement; 6, on a GPU 200"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Measure how fast this machine trains, against a plain PyTorch loop and its ceilings."""
    with reported():
        from dsdctl.bench.run import run_bench
        from dsdctl.bench.view import print_bench
        from dsdctl.run import choose_device

        chosen = choose_device(device.value)
        result = run_bench(
            chosen,
            jobs=jobs,
            repeats=repeats,
            batches=batches or (6 if chosen == "cpu" else 200),
            images=images,
            say=say,
        )
        if as_json:
            print_plain(result.model_dump_json(indent=2))
        else:
            print_bench(result, out())


@app.command()
def doctor(context: typer.Context, store: StoreOption = DEFAULT_STORE) -> None:
    """Say whether this machine is ready, and check every byte of the store."""
    with reported():
        from dsdctl.doctor import examine
        from dsdctl.store import Store

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
    """Entry point of the `dsdctl` command."""
    encode_anything()
    app()


def _deliver(text: str, output: Path | None) -> None:
    """Print a result, or write it to the file that was asked for."""
    if output is None:
        print_plain(text)
    else:
        write(output, text)


def _filters(recipe: list[str] | None, seed: list[int] | None) -> list[str]:
    """The options that chose recipes and seeds, as they are typed."""
    chosen = [("--recipe", name) for name in recipe or ()]
    chosen += [("--seed", str(number)) for number in seed or ()]
    return [part for option in chosen for part in option]
