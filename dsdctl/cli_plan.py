"""What the commands about specs share: from their options to a plan, and to what a store holds."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dsdctl.console import warn

if TYPE_CHECKING:
    from dsdctl.plan.plan import Plan
    from dsdctl.plan.progress import Progress
    from dsdctl.plan.rows import ResolvedSpec


def make_plan_of(specs: list[Path], recipe: list[str] | None, seed: list[int] | None) -> "Plan":
    """Plan specs, or only these recipes and seeds of them. Raises InputError."""
    from dsdctl.plan.plan import make_plan
    from dsdctl.plan.resolve import resolve_all

    return make_plan(resolve_all(specs), recipes=recipe or (), seeds=seed or ())


def pass_on_warnings(specs: Iterable["ResolvedSpec"]) -> None:
    """Say what specs warn of."""
    experiments = [spec.experiment for spec in specs]
    warn([f"{one.experiment}: {one.warning}" for one in experiments if one.warning])


def progress_of(made: "Plan", store: Path, *, may_be_absent: bool = False) -> "Progress":
    """What a store holds of a plan, read only; that it is damaged or absent is said."""
    from dsdctl.plan.progress import Progress
    from dsdctl.store.store import Store

    opened = Store(store, read_only=True)
    absence = opened.absence()
    progress = Progress(made, opened)
    warn([absence] if absence and not may_be_absent else opened.damage)
    return progress
