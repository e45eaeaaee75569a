"""What `dsdctl store list` and `dsdctl store diff` show."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from dsdctl.errors import InputError, printable
from dsdctl.keys import key_of
from dsdctl.plan.plan import make_plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.resolve import resolve
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.plan.reuse import shortened_value
from dsdctl.report.word_wrapped import WordWrappedTable
from dsdctl.run.event_log import logged_specs
from dsdctl.run.own import known_in
from dsdctl.store import maintenance
from dsdctl.store.differences import Identities, differences
from dsdctl.store.maintenance import Entry
from dsdctl.store.store import Store
from dsdctl.units import size

Users = Mapping[str, Iterable[str]]
"""Who uses what, by key."""


def users(progress: Progress) -> dict[str, list[str]]:
    """The recipes that use each finished piece of work; of several specs with the experiment."""
    found: dict[str, list[str]] = {}
    for trajectory in progress.plan.trajectories.values():
        for key in _keys(progress, trajectory):
            found.setdefault(key, []).append(trajectory.name)
    return {key: list(dict.fromkeys(names)) for key, names in found.items()}


def known_users(store: Store) -> tuple[dict[str, list[str]], list[str]]:
    """The experiments that use each piece of work, and their specs.

    They are those that the runs of the store were given, as far as they are here and hold.
    """
    found: dict[str, list[str]] = {}
    files = []
    for file in logged_specs(store.root):
        try:
            plan = make_plan([resolve(file, known_in(store))])
        except InputError:
            continue
        files.append(printable(str(file)))
        for key in users(Progress(plan, store)):
            found.setdefault(key, []).append(plan.specs[0].experiment.experiment)
    return found, files


def _keys(progress: Progress, trajectory: Trajectory) -> list[str]:
    """The keys of what a trajectory has in a store, or uses there."""
    dense = progress.level_identity(trajectory, 0)
    early = trajectory.rewind_checkpoint(dense.distillation) if dense is not None else None
    pieces = [progress.table_identity(trajectory), early]
    levels = [level.key for level in progress.known[trajectory.key].levels]
    return levels + [key_of(piece) for piece in pieces if piece is not None]


def store_table(store: Store, entries: Iterable[Entry], used_by: Users) -> RenderableType:
    """A line per finished piece of work, newest first."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("key", "finished", "size", "what", *(["used by"] if used_by else [])):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for entry in sorted(entries, key=lambda one: (-one.finished, one.key)):
        finished = datetime.fromtimestamp(entry.finished).isoformat(" ", "minutes")
        what = maintenance.describe(store, entry)
        names = ", ".join(used_by.get(entry.key, ()))
        cells = (entry.key[:12], finished, size(entry.bytes), what, names)
        table.add_row(*map(Text, cells[: len(table.columns)]))
    return WordWrappedTable(table)


def key_beginning(store: Store, beginning: str) -> str:
    """The key of the one finished level or table that begins so. Raises InputError."""
    keys = [entry.key for entry in maintenance.entries(store) if entry.key.startswith(beginning)]
    if len(keys) != 1 or not beginning:
        reason = f"{len(keys)} levels and tables have a key that begins so"
        raise InputError(f"KEY: {beginning}: {reason} (allowed: one of `dsdctl store list`)")
    return keys[0]


def difference_table(store: Store, first: str, second: str) -> RenderableType:
    """The fields in which two identities differ. Raises InputError where one cannot be read."""
    identities = Identities(store)
    one, other = identities.get(first), identities.get(second)
    if one is None or other is None:
        raise InputError(f"KEY: {first if one is None else second}: damaged, see `store check`")
    if ("level" in one) != ("level" in other):
        raise InputError("KEY: one is a level's, the other that of cached teacher logits")
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("field", first[:12], second[:12]):
        table.add_column(heading, overflow="fold")
    for difference in differences(one, other, identities.get):
        values = shortened_value(difference.first), shortened_value(difference.second)
        table.add_row(*map(Text, (difference.field, *values)))
    return WordWrappedTable(table)
