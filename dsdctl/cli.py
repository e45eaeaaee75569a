"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from dsdctl.errors import DsdctlError, InputError

if TYPE_CHECKING:
    from dsdctl.plan import Plan
    from dsdctl.resolve import ResolvedSpec

BAD_INPUT, SOME_FAILED, INTERRUPTED, TERMINATED = 2, 3, 130, 143

app = typer.Typer(
    name="dsdctl",
    help="Experiments on sparse double descent: one YAML file in, a comparison table out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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


class SchemaOf(StrEnum):
    """Which file a schema is of."""

    spec = "spec"
    recipe = "recipe"


Specs = Annotated[list[Path], typer.Argument(metavar="SPEC...", help="experiment files")]
StoreOption = Annotated[
    Path,
    typer.Option("--store", envvar="DSDCTL_STORE", help="folder of finished work"),
]
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

DEFAULT_STORE = Path("dsdctl-store")


@app.command()
def validate(specs: Specs) -> None:
    """Check specs and the recipes that they name; print every problem at once."""
    with _reported():
        for spec in _resolve(specs):
            count = len(spec.rows)
            line = f"{spec.file}: ok, {count} row{'s' * (count != 1)}"
            _out().print(line, markup=False, soft_wrap=True)


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
    with _reported():
        made = _plan(specs, recipe, seed)
        from dsdctl import calibration
        from dsdctl.cost import fvcore_macs
        from dsdctl.progress import Progress
        from dsdctl.report import plan_summary, plan_view
        from dsdctl.run import choose_device, default_jobs
        from dsdctl.store import Store

        where = choose_device(device.value)
        slots = jobs or default_jobs(where)
        progress = Progress(made, Store(store, read_only=True))
        seconds = calibration.seconds_per_level(
            progress.store, where, made.trajectories.values(), fvcore_macs
        )
        summary = plan_summary.summarise(progress, fvcore_macs, seconds, slots)
        _warn(progress.store.damage)
        if graph is not None:
            _write(graph, plan_view.graph(summary))
        if as_json:
            _print_plain(summary.model_dump_json(by_alias=True, indent=2))
        else:
            _out().print(plan_view.rich_plan(progress, summary, fvcore_macs, where, slots))


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
        int, typer.Option("--threads", min=1, help="threads of a process on a CPU")
    ] = 1,
    recipe: Recipes = None,
    seed: Seeds = None,
    checkpoint_every: Annotated[
        float,
        typer.Option(
            "--checkpoint-every",
            min=0,
            metavar="SECONDS",
            help="how often a level in flight is kept; 0: after every epoch",
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
    with _reported():
        made = _plan(specs, recipe, seed)
        from dsdctl.report.render import render
        from dsdctl.run import RunOptions, choose_device, default_jobs, run_plan

        where = choose_device(device.value)
        slots = jobs or default_jobs(where)
        options = RunOptions(
            store, where, slots, threads, checkpoint_every, fail_fast, memory, verbose
        )
        with _terminable():
            finished = run_plan(made, options, _err())
        _print_plain(render(finished.reports, "rich", _out()))
        unfinished = [report.experiment for report in finished.reports if not report.complete]
        if finished.failures or unfinished:
            for failure in dict.fromkeys(finished.failures.values()):
                _err().print(f"error: {failure}", markup=False, soft_wrap=True)
            names = ", ".join(unfinished)
            _err().print(f"error: the comparison of {names} is not complete", soft_wrap=True)
            raise typer.Exit(SOME_FAILED)


@app.command()
def report(
    specs: Specs,
    store: StoreOption = DEFAULT_STORE,
    style: Annotated[Format, typer.Option("--format", help="how to print it")] = Format.rich,
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
) -> None:
    """Print the comparison, complete or not, from what the store holds."""
    with _reported():
        made = _plan(specs, recipe, seed)
        from dsdctl.cost import fvcore_macs
        from dsdctl.progress import Progress
        from dsdctl.report.render import render
        from dsdctl.report.table import make_report
        from dsdctl.store import Store

        progress = Progress(made, Store(store, read_only=True))
        _warn(progress.store.damage)
        if wandb:
            from dsdctl.run import replay

            replay(progress, store, _err())
        reports = make_report(progress, fvcore_macs)
        text = render(reports, style.value, _out())
        if output is None:
            _print_plain(text)
        else:
            _write(output, text)
        if figures is not None:
            from dsdctl.report.figures.draw import save_figures

            for line in save_figures(reports, figures):
                _err().print(line, markup=False, soft_wrap=True)


@app.command()
def status(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="experiment file")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show how far each trajectory of a spec has come."""
    with _reported():
        made = _plan([spec], None, None)
        from dsdctl.progress import Progress
        from dsdctl.report.status import status_lines
        from dsdctl.store import Store

        progress = Progress(made, Store(store, read_only=True))
        _warn(progress.store.damage)
        for line in status_lines(progress):
            _out().print(line, markup=False, soft_wrap=True)


@app.command()
def recipes() -> None:
    """List the packaged recipes."""
    with _reported():
        from dsdctl.loading import read_document
        from dsdctl.loading import validate as check
        from dsdctl.resolve import packaged_recipes
        from dsdctl.spec import Recipe

        for file in sorted(packaged_recipes().glob("*.yaml")):
            found = check(Recipe, read_document(file))
            _out().print(f"{found.recipe:20} {found.title}", markup=False, soft_wrap=True)


@app.command()
def schema(of: Annotated[SchemaOf, typer.Argument(help="which file")]) -> None:
    """Print the JSON Schema of a spec or recipe, for editors."""
    from dsdctl.spec import Experiment, Recipe

    model = Experiment if of is SchemaOf.spec else Recipe
    _print_plain(json.dumps(model.model_json_schema(), indent=2))


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
    with _reported():
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
            say=lambda line: _err().print(line, markup=False, soft_wrap=True),
        )
        if as_json:
            _print_plain(result.model_dump_json(indent=2))
        else:
            print_bench(result, _out())


@app.command()
def doctor(store: StoreOption = DEFAULT_STORE) -> None:
    """Say whether this machine is ready, and check every byte of the store."""
    with _reported():
        from dsdctl.doctor import examine

        healthy = True
        for line, good in examine(store):
            healthy = healthy and good
            _out().print(f"{'ok  ' if good else 'BAD '} {line}", markup=False, soft_wrap=True)
        if not healthy:
            raise typer.Exit(SOME_FAILED)


store_app = typer.Typer(help="Care for the store.", no_args_is_help=True)
app.add_typer(store_app, name="store")


@store_app.command("list")
def store_list(store: StoreOption = DEFAULT_STORE) -> None:
    """List finished levels and teacher tables."""
    with _reported():
        from dsdctl import care
        from dsdctl.report.plan_view import size
        from dsdctl.store import Store

        opened, total = Store(store, read_only=True), 0
        for entry in care.entries(opened):
            total += entry.bytes
            line = f"{entry.key[:12]}  {size(entry.bytes):>10}  {care.describe(opened, entry)}"
            _out().print(line, markup=False, soft_wrap=True)
        _err().print(f"{size(total)} in {store}", soft_wrap=True)


@store_app.command("check")
def store_check(store: StoreOption = DEFAULT_STORE) -> None:
    """Read every byte of the store; print what is wrong, and exit with 3 if anything is."""
    with _reported():
        from dsdctl import care
        from dsdctl.store import Store

        opened = Store(store, read_only=True)
        entries = list(care.entries(opened))
        problems = [problem for entry in entries for problem in care.check(opened, entry)]
        for problem in problems:
            _out().print(problem, markup=False, soft_wrap=True)
        _err().print(f"{len(entries)} folders checked, {len(problems)} problems", soft_wrap=True)
        if problems:
            raise typer.Exit(SOME_FAILED)


@store_app.command("gc")
def store_gc(
    specs: Annotated[
        list[Path] | None, typer.Argument(metavar="[SPEC...]", help="experiment files")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    weights: Annotated[
        bool,
        typer.Option("--weights", help="also drop weights that the given specs need no more"),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="delete; without it only say what")] = False,
) -> None:
    """Delete what killed runs left behind and, on request, weights. Results always stay."""
    with _reported():
        if weights and not specs:
            raise InputError("--weights: name the specs whose weights may go")
        from dsdctl import care
        from dsdctl.progress import Progress
        from dsdctl.report.plan_view import size
        from dsdctl.store import Store

        opened = Store(store)
        with opened.lock("gc") as locked:
            if not locked:
                raise InputError(f"--store: {store}: another `store gc` is at work")
            freed = 0
            for path in care.leftovers(opened):
                _out().print(str(path), markup=False, soft_wrap=True)
                freed += care.remove(path) if yes else 0
            if weights and specs:
                for key in care.unneeded_weights(Progress(_plan(specs, None, None), opened)):
                    _out().print(f"weights of {key}", markup=False, soft_wrap=True)
                    freed += opened.drop_weights(key) if yes else 0
        done = f"{size(freed)} freed" if yes else "nothing deleted; add --yes to delete"
        _err().print(done, soft_wrap=True)


def main() -> None:
    """Entry point of the `dsdctl` command."""
    app()


def _plan(specs: list[Path], recipe: list[str] | None, seed: list[int] | None) -> "Plan":
    from dsdctl.plan import make_plan

    return make_plan(_resolve(specs), recipes=recipe or (), seeds=seed or ())


def _resolve(specs: list[Path]) -> "list[ResolvedSpec]":
    """Read all specs, or raise the problems of all of them together."""
    from dsdctl.resolve import resolve

    found: list[ResolvedSpec] = []
    problems: list[str] = []
    for spec in specs:
        try:
            found.append(resolve(spec))
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return found


def _out() -> Console:
    """Results go to standard output; a log gets room enough for a whole table row."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)


def _err() -> Console:
    return Console(stderr=True, highlight=False)


def _print_plain(text: str) -> None:
    sys.stdout.write(text + "\n")


def _warn(lines: list[str]) -> None:
    for line in lines:
        _err().print(f"warning: {line}", markup=False, soft_wrap=True)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text + "\n")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what can go wrong into one line a problem and an exit code."""
    try:
        yield
    except InputError as error:
        for problem in error.problems:
            _err().print(problem, markup=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from None
    except DsdctlError as error:
        _err().print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(SOME_FAILED) from None
    except KeyboardInterrupt as interrupt:
        code = TERMINATED if interrupt.args else INTERRUPTED
        _err().print("interrupted; the same command goes on from here", soft_wrap=True)
        raise typer.Exit(code) from None


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C is treated, but for the exit code."""

    def terminate(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt("terminated")

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
