"""How figures look: sizes, colours, line styles and markers.

Lines are told apart by dashes and markers too, for greyscale prints and the colour-blind.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl

COLUMN = 85 / 25.4
"""Width of one column of a paper, in inches."""

PAGE = 178 / 25.4
"""Width of both columns, in inches."""

FONT_SIZE, SMALL, TINY = 7.0, 6.5, 6.0
"""Of titles and axes, of ticks and legends, and of what stands above legends, in points."""

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE,
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.ymargin": 0.08,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "savefig.dpi": 300,
    "text.parse_math": False,
    "svg.hashsalt": "dsdctl",
    "svg.fonttype": "none",  # text, to be searched and edited
    "pdf.fonttype": 42,  # so it is in a PDF
}


_IN_POINTS = ("size", "width")
"""How the names of settings end that are lengths."""


@contextmanager
def settings(scale: float = 1.0) -> Iterator[None]:
    """Draw with our settings and nobody else's; the user's own come back afterwards.

    Letters, axes and ticks are enlarged by `scale`.
    """
    ours = {
        name: scale * value if name.endswith(_IN_POINTS) else value
        for name, value in _SETTINGS.items()
    }
    with mpl.rc_context(), warnings.catch_warnings():
        # A variant's value may hold any character; one that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        mpl.rcdefaults()
        mpl.rcParams.update(ours)
        yield


def enlarged(points: float) -> float:
    """A length on paper as it is in the settings that are drawn with."""
    return points * float(mpl.rcParams["font.size"]) / FONT_SIZE


Pen = dict[str, Any]
"""How something is drawn, as matplotlib's keywords for lines."""


@dataclass(frozen=True)
class Look:
    """How a line is drawn: told apart in colour, in greyscale and by the colour-blind."""

    color: str
    marker: str
    dashes: Any
    filled: bool


COLORS = ("#000000", "#D55E00", "#004C97", "#33C596", "#83379B", "#F0A830", "#9AD4F5")
"""Near Okabe and Ito's, lighter or darker so that they differ as greys too; without the yellow,
which is lost on white."""

_STROKES = (
    ("o", "-", True),
    ("s", (0, (4, 1.5)), False),
    ("^", (0, (4, 1.2, 1, 1.2)), True),
    ("D", (0, (1.2, 1.2)), False),
    ("v", (0, (7, 1.5)), True),
    ("P", (0, (4, 1, 1, 1, 1, 1)), False),
    ("X", (0, (2, 1)), True),
)
"""Marker, dashes, and whether the marker is filled."""


def look(number: int) -> Look:
    """The look of the line with this number; the first 49 differ."""
    count = len(COLORS)
    return Look(COLORS[number % count], *_STROKES[(number + number // count) % count])


GREY = "0.5"
TEACHER: Pen = {"color": GREY, "linewidth": 0.8}
TEACHING: Pen = {
    "marker": "*",
    "markersize": 7.5,
    "markeredgecolor": "white",
    "markeredgewidth": 0.5,
}
REPORTED: Pen = {"linestyle": "none", **TEACHING}
STOPPED: Pen = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 6.5,
    "markerfacecolor": "none",
    "markeredgewidth": 0.8,
}
THRESHOLD: Pen = {"color": "0.3", "linestyle": ":", "linewidth": 0.8}


def line_pen(style: Look) -> Pen:
    """How a line of this look is drawn."""
    return {
        "color": style.color,
        "linestyle": style.dashes,
        "linewidth": 1,
        "marker": style.marker,
        "markersize": 2.6,
        "markerfacecolor": style.color if style.filled else "white",
        "markeredgewidth": 0.6,
    }
