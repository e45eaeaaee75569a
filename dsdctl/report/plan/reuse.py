"""Showing why a plan's next levels are not read from the store."""

import re
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from dsdctl.errors import shortened
from dsdctl.plan.reuse import Missing
from dsdctl.report.shortening import indented, joined
from dsdctl.store.differences import Difference


def rich_reuse(found: Sequence[Missing]) -> RenderableType:
    """A line per set of trajectories that miss the same level for the same reason, shortened."""
    sets: dict[tuple[str, int, str], list[Missing]] = {}
    for one in found:
        sets.setdefault((one.trajectory.name, one.level, _reason(one)), []).append(one)
    lines = [_line(name, level, reason, same) for (name, level, reason), same in sets.items()]
    if not lines:
        lines = ["nothing is missing, or what is depends on a teacher that is not known yet"]
    return Group(Text("why not from the store", style="bold"), *indented(lines))


def _line(name: str, level: int, reason: str, same: Sequence[Missing]) -> str:
    seeds = joined([str(one.trajectory.seed) for one in same])
    nearest = joined(list(dict.fromkeys(one.nearest[:12] for one in same if one.nearest)))
    which = f" (nearest: {nearest})" if nearest else ""
    return f"{name} seed{'s' * (len(same) > 1)} {seeds}, level {level}: {reason}{which}"


def _reason(one: Missing) -> str:
    if one.nearest is None:
        return f"there is no level {one.level} in the store"
    words = list(map(_words, one.differences))
    return joined(words, "; ") if words else "it is there, but cannot be read"


def _words(difference: Difference) -> str:
    here, there = (shortened_value(value) for value in (difference.first, difference.second))
    return f"{difference.field} is {here}, there {there}"


def shortened_value(value: str) -> str:
    """A value as JSON, a long one without its middle; of a digest the first twelve characters."""
    if re.fullmatch(r'"[0-9a-f]{64}"', value):
        return value[1:13]
    return shortened(value, 60)
