"""A curve in one line of text."""

from collections.abc import Sequence

from dsdctl.report.curves import phases

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(curve: Sequence[float]) -> str:
    """Draw a curve in one line, from its lowest to its highest, with `│` between phases."""
    low, high = min(curve), max(curve)
    steps = (len(_BARS) - 1) / (high - low) if high > low else 0
    names = phases(curve)
    text = ""
    for k, value in enumerate(curve):
        if k and names[k] != names[k - 1]:
            text += "│"
        text += _BARS[round((value - low) * steps)]
    return text
