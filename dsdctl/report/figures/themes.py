"""Where a figure is shown: on paper, slides or a dark page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

Style = Literal["paper", "slides", "dark"]

SLIDES = 2.2
"""How much larger letters and lines are on slides."""


@dataclass(frozen=True)
class Theme:
    """How to show figures; `width` is in inches, None that of a paper's columns, enlarged."""

    style: Style = "paper"
    width: float | None = None

    @property
    def scale(self) -> float:
        """By what letters and lines are enlarged."""
        return SLIDES if self.style == "slides" else 1.0

    def applied(self, figure: Figure) -> Figure:
        """Make a figure that was drawn with the settings of `scale` one of this style."""
        if self.scale != 1:
            _enlarge(figure, self.scale)
        if self.style == "dark":
            _darken(figure)
        return figure


def _enlarge(figure: Figure, factor: float) -> None:
    """Make lines and markers larger; letters, axes and ticks are so by the settings."""
    legends = [line for legend in figure.legends for line in legend.get_lines()]
    for line in [line for axes in figure.axes for line in axes.lines] + legends:
        line.set_linewidth(factor * line.get_linewidth())
        line.set_markersize(factor * line.get_markersize())
        line.set_markeredgewidth(factor * line.get_markeredgewidth())
    for collection in [drawn for axes in figure.axes for drawn in axes.collections]:
        collection.set_linewidth(list(factor * np.atleast_1d(collection.get_linewidth())))


def _darken(figure: Figure) -> None:
    """Turn white into nearly black, greys with it, and lighten colours."""
    for line in figure.findobj(Line2D):
        _recolour(line, "color", "markerfacecolor", "markeredgecolor")
    for shape in (*figure.findobj(Patch), *figure.findobj(Collection)):
        _recolour(shape, "facecolor", "edgecolor")
    for text in figure.findobj(Text):
        _recolour(text, "color")
    for axes in figure.axes:
        axes.tick_params(which="both", colors=str(_inverted(0.0)))


def _recolour(artist: Any, *names: str) -> None:
    """Change an artist's colours; all are read first, since some follow from others."""
    before = {name: getattr(artist, f"get_{name}")() for name in names}
    for name, colours in before.items():
        if isinstance(colours, str) and colours == "none":
            continue
        after = [_dark(*rgba) for rgba in to_rgba_array(colours)]
        if after:
            getattr(artist, f"set_{name}")(after if isinstance(artist, Collection) else after[0])


def _dark(red: float, green: float, blue: float, alpha: float) -> Sequence[float]:
    if max(red, green, blue) - min(red, green, blue) < 0.02:
        return (*[_inverted(red)] * 3, alpha)
    return (*(value + 0.35 * (1 - value) for value in (red, green, blue)), alpha)


def _inverted(grey: float) -> float:
    return 0.93 - 0.85 * grey
