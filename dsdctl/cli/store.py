"""`dsdctl store`: what is in a store, whether it is whole, and what may go."""

from pathlib import Path
from typing import Annotated

import typer

from dsdctl.cli.completion import complete_spec
from dsdctl.cli.console import SOME_FAILED, print_line, reported, say, warn
from dsdctl.cli.options import DEFAULT_STORE, StoreOption, make_plan_of
from dsdctl.errors import InputError

app = typer.Typer(help="Care for the store.", no_args_is_help=True)


@app.command("list")
def list_(store: StoreOption = DEFAULT_STORE) -> None:
    """List finished levels and teacher tables."""
    with reported():
        from dsdctl.store import maintenance
        from dsdctl.store.store import Store
        from dsdctl.units import size

        opened, total = Store(store, read_only=True), 0
        opened.require()
        for entry in maintenance.entries(opened):
            total += entry.bytes
            line = (
                f"{entry.key[:12]}  {size(entry.bytes):>10}  {maintenance.describe(opened, entry)}"
            )
            print_line(line)
        say(f"{size(total)} in {store}")


@app.command("check")
def check(store: StoreOption = DEFAULT_STORE) -> None:
    """Read every byte of the store; print what is wrong, and exit with 3 if anything is."""
    with reported():
        from dsdctl.store import maintenance
        from dsdctl.store.store import Store

        opened = Store(store, read_only=True)
        opened.require()
        folders, problems = maintenance.check_all(opened)
        for problem in problems:
            print_line(problem)
        say(f"{folders} folders checked, {len(problems)} problems")
        if problems:
            raise typer.Exit(SOME_FAILED)


@app.command("gc")
def gc(
    specs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[SPEC...]", help="experiment files", autocompletion=complete_spec),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    weights: Annotated[
        bool,
        typer.Option("--weights", help="also drop weights that the given specs need no more"),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="delete; without it only say what")] = False,
) -> None:
    """Delete what killed runs left behind and, on request, weights. Results always stay."""
    with reported():
        if weights and not specs:
            raise InputError("--weights: name the specs whose weights may go")
        from dsdctl.plan.next_work import unneeded_weights
        from dsdctl.plan.progress import Progress
        from dsdctl.store import maintenance
        from dsdctl.store.store import Store
        from dsdctl.units import size

        opened = Store(store)
        opened.require()
        with opened.lock("gc") as locked:
            if not locked:
                raise InputError(f"--store: {store}: another `store gc` is at work")
            freed = 0
            for path in maintenance.leftovers(opened):
                print_line(str(path))
                freed += maintenance.remove(path) if yes else 0
            if weights and specs:
                made = make_plan_of(specs, None, None, known_in=store)
                progress = Progress(made, Store(store, read_only=True))
                warn(progress.store.damage)
                for key in unneeded_weights(progress):
                    print_line(f"weights of {key}")
                    freed += opened.levels.drop_weights(key) if yes else 0
        done = f"{size(freed)} freed" if yes else "nothing deleted; add --yes to delete"
        say(done)
