"""Quantities in words: bytes, seconds, large and small numbers."""

from typing import NamedTuple


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `3 min 20 s`, `5 h 10 min`, `2 d 3 h`."""
    seconds = round(seconds)
    for above, large, small, large_name, small_name in (
        (86_400, 86_400, 3600, "d", "h"),
        (3600, 3600, 60, "h", "min"),
        (60, 60, 1, "min", "s"),
    ):
        if seconds >= above:
            return f"{seconds // large} {large_name} {seconds % large // small} {small_name}"
    return f"{seconds} s"


class FlopsUnit(NamedTuple):
    """A unit of costs, and how many of it are a PFLOP."""

    name: str
    per_pflop: float


PFLOPS = FlopsUnit("PFLOPs", 1.0)


def flops_unit(pflops: float) -> FlopsUnit:
    """The unit in which a cost is a number to read."""
    for unit in (PFLOPS, FlopsUnit("TFLOPs", 1e3)):
        if pflops * unit.per_pflop >= 0.1:
            return unit
    return FlopsUnit("GFLOPs", 1e6) if pflops else PFLOPS


def flops(pflops: float) -> str:
    """A cost with its unit: `48.84 PFLOPs`, `0.31 TFLOPs`."""
    name, per_pflop = flops_unit(pflops)
    return f"{magnitude(pflops * per_pflop)} {name}"


def magnitude(pflops: float) -> str:
    """Two decimals as in the paper, or two significant digits where these would show little."""
    return f"{pflops:.2f}" if pflops >= 0.1 else f"{pflops:.2g}"
