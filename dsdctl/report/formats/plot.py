"""A plot for the terminal: mean test accuracy against sparsity with its phases, in characters."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.text import Text

from dsdctl.report.answer import Level
from dsdctl.report.curve_summary import Curve
from dsdctl.report.curves import Phase, mean_curve, spans
from dsdctl.report.panels import Panel, SparsityAxis

HEIGHT = 12
WIDEST_STEP = 6
"""Columns from one level to the next at the most."""

GUTTER = "     "
"""What stands left of the plot where no accuracy does."""

POINTS = (
    ("●", "bold"),
    ("□", "red"),
    ("▲", "blue"),
    ("◇", "green"),
    ("▼", "magenta"),
    ("+", "yellow"),
    ("x", "cyan"),
)
"""The lines' characters and styles, as the figures' markers."""

TEACHER = ("·", "bright_black")


@dataclass
class _Canvas:
    """Characters with their styles, `HEIGHT` rows of as many columns as the levels take."""

    axis: SparsityAxis
    width: int
    low: float
    high: float
    cells: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)

    @property
    def columns(self) -> int:
        return self.column(self.axis.end) + 1

    def column(self, position: float) -> int:
        """Where a position of the axis stands: whole steps where there is room for them."""
        step = (self.width - len(GUTTER) - 1) / max(1, self.axis.end)
        return round(position * min(WIDEST_STEP, int(step) or step))

    def row(self, accuracy: float) -> int:
        """The row of an accuracy, counted from the top."""
        height = (accuracy - self.low) / (self.high - self.low or 1)
        return round((HEIGHT - 1) * (1 - height))

    def draw(self, levels: Sequence[Level], curve: Sequence[float], point: tuple[str, str]) -> None:
        for level, accuracy in zip(levels, curve, strict=False):
            cell = self.row(accuracy), self.column(self.axis.position(level))
            self.cells[cell] = point

    def line(self, row: int) -> Text:
        line = Text()
        for column in range(self.columns):
            character, style = self.cells.get((row, column), (" ", ""))
            line.append(character, style)
        return line


def plot(panel: Panel, axis: SparsityAxis, width: int) -> Text:
    """Draw one panel, at most `width` columns wide: a point a level, the phases above."""
    curves = [
        (teacher.levels, [level["test_accuracy"] for level in teacher.levels], TEACHER)
        for teacher in panel.teachers
    ]
    # The first line is drawn last, over the others.
    for number, line in reversed(list(enumerate(panel.lines))):
        seeds = list(line.seeds.values())
        mean = mean_curve([[level["test_accuracy"] for level in levels] for levels in seeds])
        curves.append((seeds[0], mean, POINTS[number % len(POINTS)]))
    values = [accuracy for _, curve, _ in curves for accuracy in curve]
    canvas = _Canvas(axis, width, min(values), max(values))
    phases = _phase_columns(canvas, panel.phased) if panel.phased else []
    for _, left, _ in phases[1:]:
        for row in range(HEIGHT):
            canvas.cells[row, left] = ("│", "dim")
    for levels, curve, point in curves:
        canvas.draw(levels, curve, point)
    lines = [_title(panel, axis), *([_headings(phases)] if phases else [])]
    lines += [_labelled(canvas, row) for row in range(HEIGHT)]
    return Text("\n").join([*lines, _ticks(canvas), _key(panel)])


def _title(panel: Panel, axis: SparsityAxis) -> Text:
    words = f"mean test accuracy % against {'sparsity %' if axis.pruned else 'level'}"
    if panel.phased:
        words += f", phases of {panel.phased.recipe}"
    return Text(f"{words}: {panel.title}" if panel.title else words, "bold")


def _phase_columns(canvas: _Canvas, curve: Curve) -> list[tuple[Phase, int, int]]:
    """Each phase with the columns at which it begins and ends."""
    found = []
    for span in spans(curve.phases):
        left, right = canvas.axis.extent(curve, span.first, span.last)
        found.append((span.phase, canvas.column(left), canvas.column(right)))
    return found


def _headings(phases: Sequence[tuple[Phase, int, int]]) -> Text:
    """The phases' names over their columns, cut where the next one begins."""
    line = ""
    for (phase, _, end), after in zip(phases, [*phases[1:], None], strict=True):
        room = end - len(line)
        line += (phase[: max(0, room - 1)] if after else phase).center(room)
    return Text(GUTTER + line, "dim")


def _labelled(canvas: _Canvas, row: int) -> Text:
    """A row of the plot, every fourth one and the last with its accuracy in percent."""
    accuracy = canvas.high - (canvas.high - canvas.low) * row / (HEIGHT - 1)
    labelled = row % 4 == 0 or row == HEIGHT - 1
    return Text(f"{100 * accuracy:3.0f} ┤" if labelled else "    │", "dim") + canvas.line(row)


def _ticks(canvas: _Canvas) -> Text:
    line = GUTTER
    for k in canvas.axis.ticks(max(2, canvas.columns // 9)):
        label = canvas.axis.label(k)
        middle = len(GUTTER) + canvas.column(k)
        line = line.ljust(min(middle - len(label) // 2, canvas.width - len(label))) + label
    return Text(line, "dim")


def _key(panel: Panel) -> Text:
    """The points' names, each kept on one line."""
    names = [(POINTS[number % len(POINTS)], line.label) for number, line in enumerate(panel.lines)]
    names += [(TEACHER, "teacher")] if panel.teachers else []
    entries = [
        Text.assemble(point, "\u00a0", label.replace(" ", "\u00a0")) for point, label in names
    ]
    return Text("  ").join(entries)
