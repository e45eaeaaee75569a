"""`dsdctl prepare`: data made ready before a run."""

import typer

from dsdctl.cli.console import SOME_FAILED, err, notify, print_line, reported
from dsdctl.cli.options import Specs, StoreOption
from dsdctl.store.place import DEFAULT_STORE


def prepare(specs: Specs, store: StoreOption = DEFAULT_STORE) -> None:
    """Make the data of specs ready: run the user's own functions, download, decode, check."""
    with reported():
        from dsdctl.cli.listener import ConsoleProgress
        from dsdctl.data.prepare import fallback_folder
        from dsdctl.plan.plan import make_plan
        from dsdctl.plan.resolve import resolve_all
        from dsdctl.run.own_code import OwnCode
        from dsdctl.run.prepare import prepare_all

        code = OwnCode(lambda shown: notify(f"runs code from {shown}"))
        made = make_plan(resolve_all(specs, prepare=code.prepare))
        trajectories = list(made.trajectories.values())
        failures = prepare_all(trajectories, fallback_folder(store), ConsoleProgress(err()))
        for failure in dict.fromkeys(failures.values()):
            notify(f"error: {failure}")
        if failures:
            raise typer.Exit(SOME_FAILED)
        for images in {str(t.setup.images.path): t.setup.images for t in trajectories}.values():
            sizes = ", ".join(f"{count:,} {part}" for part, count in vars(images.sizes).items())
            print_line(f"{images.dataset.name}: ready in {images.path} ({sizes} images)")
