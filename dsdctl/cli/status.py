"""`dsdctl status`: how far each trajectory of a spec has come."""

from typing import Annotated

import typer

from dsdctl.cli.console import can_draw, out, print_line, reported
from dsdctl.cli.options import Interval, Spec, StoreOption, make_plan_of, progress_of
from dsdctl.store.place import DEFAULT_STORE


def status(
    spec: Spec,
    store: StoreOption = DEFAULT_STORE,
    watch: Annotated[bool, typer.Option("--watch", help="show changes until all is done")] = False,
    interval: Interval = 2.0,
) -> None:
    """Show how far each trajectory of a spec has come."""
    with reported():
        made = make_plan_of([spec], None, None, known_in=store)
        from dsdctl.report.status import status_lines
        from dsdctl.slurm.jobs import described_jobs

        progress = progress_of(made, store)
        if watch:
            from dsdctl.cli.watch import watch as follow

            follow(progress, out(), interval)
            return
        console = out()
        width = console.width if can_draw(console) else None
        for line in status_lines(progress, described_jobs(progress.store), width=width):
            print_line(line)
