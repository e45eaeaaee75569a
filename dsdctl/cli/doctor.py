"""`dsdctl doctor`: is this machine ready, and is the store whole."""

import typer

from dsdctl.cli.console import SOME_FAILED, print_line, reported
from dsdctl.cli.options import StoreOption
from dsdctl.store.place import DEFAULT_STORE


def doctor(context: typer.Context, store: StoreOption = DEFAULT_STORE) -> None:
    """Say whether this machine is ready, and check every byte of the store."""
    with reported():
        from dsdctl.cli.examine import examine
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
