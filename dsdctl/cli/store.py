"""`dsdctl store`: what is in a store, whether it is whole, and what may go."""

from pathlib import Path
from typing import Annotated

import typer

from dsdctl.cli.completion import complete_spec
from dsdctl.cli.console import SOME_FAILED, notify, out, print_line, reported, warn
from dsdctl.cli.options import StoreOption, make_plan_of, progress_of
from dsdctl.errors import InputError
from dsdctl.store.place import DEFAULT_STORE

app = typer.Typer(help="Care for the store.", no_args_is_help=True)


@app.command("list")
def list_(
    specs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[SPEC...]", help="only what these specs use", autocompletion=complete_spec
        ),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """List finished levels and cached teacher logits, newest first, and which specs use them."""
    with reported():
        from dsdctl.cli.store_table import known_users, store_table, users
        from dsdctl.store import maintenance
        from dsdctl.store.store import Store
        from dsdctl.units import size

        opened = Store(store)
        opened.require()
        if specs:
            made = make_plan_of(specs, None, None, known_in=store)
            used_by = users(progress_of(made, store))
        else:
            used_by, found = known_users(opened)
            if found:
                notify(f"used by: of the specs that its runs had, those here: {', '.join(found)}")
        listed = [e for e in maintenance.entries(opened) if not specs or e.key in used_by]
        out().print(store_table(opened, listed, used_by))
        notify(f"{len(listed)} in {store}, {size(sum(entry.bytes for entry in listed))}")


@app.command("diff")
def diff(
    first: Annotated[
        str, typer.Argument(metavar="KEY", help="key of a level or table, or how it begins")
    ],
    second: Annotated[str, typer.Argument(metavar="KEY", help="the other key")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Show in which fields the identities of two levels, or of two tables of logits, differ."""
    with reported():
        from dsdctl.cli.store_table import difference_table, key_beginning
        from dsdctl.store.store import Store

        opened = Store(store)
        opened.require()
        keys = [key_beginning(opened, beginning) for beginning in (first, second)]
        out().print(difference_table(opened, *keys))


@app.command("source")
def source(
    key: Annotated[str, typer.Argument(metavar="KEY", help="of a level, or its beginning")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to write")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write back the code of your own network as a level keeps it. Overwrites nothing."""
    with reported():
        from dsdctl.cli.store_table import key_beginning
        from dsdctl.own.source import write_source
        from dsdctl.store.store import Store

        opened = Store(store)
        opened.require()
        whole = key_beginning(opened, key)
        found = opened.levels.source(whole) if opened.levels.get(whole) else None
        if found is None:
            raise InputError(f"KEY: {key}: keeps no code (allowed: a level of a network of yours)")
        for file in write_source(found, folder):
            print_line(f"wrote {file}")
        notify(f"a spec beside them names it `arch: {found.arch}`")


@app.command("check")
def check(store: StoreOption = DEFAULT_STORE) -> None:
    """Read every byte of the store; print what is wrong, and exit with 3 if anything is."""
    with reported():
        from dsdctl.store import maintenance
        from dsdctl.store.store import Store

        opened = Store(store)
        opened.require()
        folders, problems = maintenance.check_all(opened)
        for problem in problems:
            print_line(problem)
        notify(f"{folders} folders checked, {len(problems)} problems")
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
        typer.Option("--weights", help="also drop weights that the given specs no longer need"),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="delete; without it only list what would go")
    ] = False,
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
                raise InputError(f"--store: {store}: another `store gc` is running")
            freed = 0
            for path in maintenance.leftovers(opened):
                print_line(str(path))
                freed += maintenance.remove(path) if yes else 0
            if weights and specs:
                made = make_plan_of(specs, None, None, known_in=store)
                progress = Progress(made, Store(store))
                warn(progress.store.damage)
                for key in unneeded_weights(progress):
                    print_line(f"weights of {key}")
                    freed += opened.levels.drop_weights(key) if yes else 0
        done = f"{size(freed)} freed" if yes else "nothing deleted; add --yes to delete"
        notify(done)
