"""Options that several commands share."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdctl.cli.completion import complete_recipe, complete_seed, complete_spec
from dsdctl.cli.console import notify, warn
from dsdctl.store.place import STORE_VARIABLE

if TYPE_CHECKING:
    from dsdctl.plan.plan import Plan
    from dsdctl.plan.progress import Progress
    from dsdctl.plan.rows import ResolvedSpec


class DeviceChoice(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Specs = Annotated[
    list[Path],
    typer.Argument(metavar="SPEC...", help="experiment files", autocompletion=complete_spec),
]
Spec = Annotated[
    Path, typer.Argument(metavar="SPEC", help="experiment file", autocompletion=complete_spec)
]
Recipes = Annotated[
    list[str] | None,
    typer.Option("--recipe", help="only this recipe (repeatable)", autocompletion=complete_recipe),
]
Seeds = Annotated[
    list[int] | None,
    typer.Option("--seed", help="only this seed (repeatable)", autocompletion=complete_seed),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, help="levels at once; default: one per core on a CPU, one on a GPU"
    ),
]
Memory = Annotated[
    float,
    typer.Option(
        min=0,
        max=2**20,
        metavar="GIB",
        help="memory for a data set's images; larger ones are read from disk",
    ),
]
Interval = Annotated[
    float,
    typer.Option(min=0.1, max=86_400, metavar="SECONDS", help="with --watch: how often to refresh"),
]
Threads = Annotated[
    int, typer.Option("--threads", min=1, max=1024, help="threads of a process on a CPU")
]
Device = Annotated[DeviceChoice, typer.Option("--device", help="device to train on")]


def _folder(text: str) -> Path:
    if not text:  # an unset variable of a script, which must not mean the current folder
        raise typer.BadParameter("is empty (allowed: a folder)")
    return Path(text)


StoreOption = Annotated[
    Path,
    typer.Option(
        "--store",
        envvar=STORE_VARIABLE,
        parser=_folder,
        metavar="FOLDER",
        help="folder of finished work",
    ),
]


def make_plan_of(
    specs: list[Path], recipe: list[str] | None, seed: list[int] | None, *, known_in: Path
) -> "Plan":
    """Plan specs, or only these recipes and seeds of them. Raises InputError.

    Of networks of the user's own it knows what was found before, as the store `known_in` has it.
    """
    from dsdctl.plan.plan import make_plan
    from dsdctl.plan.resolve import resolve_all
    from dsdctl.run.own import known_in as answers_of
    from dsdctl.store.store import Store

    inspect = answers_of(Store(known_in))
    return make_plan(resolve_all(specs, inspect), recipes=recipe or (), seeds=seed or ())


def make_plan_to_run(
    specs: list[Path], recipe: list[str] | None, seed: list[int] | None, *, runs: bool
) -> "Plan":
    """Plan specs as `make_plan_of` does, but look at the user's own networks and, if it `runs`,
    prepare their data.

    That their code is run is said, once: where that is done now, or by what is to be run.
    """
    from dsdctl.data.own import not_prepared
    from dsdctl.plan.plan import make_plan
    from dsdctl.plan.resolve import resolve_all
    from dsdctl.run.own_code import OwnCode

    code = OwnCode(lambda shown: notify(f"runs code from {shown}"))
    prepare = code.prepare if runs else not_prepared
    found = resolve_all(specs, code.inspect, prepare)
    made = make_plan(found, recipes=recipe or (), seeds=seed or ())
    for trajectory in made.trajectories.values() if runs else ():
        if trajectory.setup.own is not None:
            code.announce(trajectory.setup.own.source.shown)
    return made


def pass_on_warnings(specs: Iterable["ResolvedSpec"]) -> None:
    """Say what specs warn of."""
    warn([f"{spec.experiment.experiment}: {line}" for spec in specs for line in spec.warnings])


def progress_of(made: "Plan", store: Path, *, may_be_absent: bool = False) -> "Progress":
    """What a store holds of a plan, read only; that it is damaged or absent is said."""
    from dsdctl.plan.progress import Progress
    from dsdctl.store.store import Store

    opened = Store(store)
    absence = opened.absence()
    progress = Progress(made, opened)
    warn([absence] if absence and not may_be_absent else opened.damage)
    return progress
