"""Showing reports: rich tables, Markdown, LaTeX, CSV and JSON."""

import csv
import io
import json
from collections.abc import Callable, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dsdctl.report.curves import phases, sparkline
from dsdctl.report.table import Curve, Report, ReportRow, Stats, TrajectoryReport
from dsdctl.spec import MeanStd

CONVENTION = (
    "Training PFLOPs: 3 x forward MACs (fvcore, train mode) x training images x epochs x trainings "
    "of one seed, dense at every level; one FLOP is one multiply-accumulate. The teacher's "
    "trainings in brackets; its forward passes are not counted. Non-zero PFLOPs: the same without "
    "the teacher, each layer's MACs scaled by the share of its weights that a level has left."
)
DIP_RULE = (
    "Dip: the most that the mean test curve falls below both some earlier and some later level. "
    "Sparse double descent: yes when the dip is at least 3 points and more than twice its standard "
    "error over the seeds, no when it is under 2 points."
)
PHASES = "│ parts the phases: light │ critical │ sweet │ collapsed."

HEADINGS = (
    "recipe",
    "early stop",
    "distillation",
    "pruned teacher",
    "training PFLOPs (teacher)",
    "non-zero PFLOPs",
    "test accuracy %",
    "sparsity %",
    "level",
    "stopped at",
)

LEFT_OUT_WHERE_NARROW = ("non-zero PFLOPs", "level", "stopped at")

IN_THE_PAPER = (
    "early stop",
    "distillation",
    "pruned teacher",
    "training PFLOPs (teacher)",
    "test accuracy %",
    "sparsity %",
)
"""The columns of Table 1."""


def render(reports: Sequence[Report], style: str, console: Console) -> str:
    """Return the reports in one of FORMATS; `rich` draws for the width of `console`."""
    if style == "rich":
        with console.capture() as capture:
            for report in reports:
                console.print(rich_report(report, console.width))
        return capture.get().rstrip("\n")
    return FORMATS[style](reports)


# Cells


def cells(row: ReportRow) -> list[str]:
    """The cells of a row, in the order of HEADINGS."""
    return [
        row.recipe,
        _tick(row.early_stop),
        _tick(row.distillation),
        _tick(row.pruned_teacher),
        _pflops(row.pflops.mean, row.teacher_pflops),
        _pflops(row.pflops_nonzero.mean, None),
        _percent(row.test_accuracy),
        _percent(row.sparsity),
        _number(row.level),
        _number(row.stopped_at),
    ]


def reference_cells(row: ReportRow) -> list[str] | None:
    """The published values beside a row, or None where there are none."""
    reference = row.reference
    if reference is None:
        return None
    return [
        "  paper",
        "",
        "",
        "",
        _pflops(reference.pflops, reference.teacher_pflops),
        "",
        _published(reference.test_accuracy),
        _published(reference.sparsity),
        "",
        "",
    ]


def _tick(yes: bool) -> str:
    return "x" if yes else ""


def _published(value: MeanStd | None) -> str:
    if value is None:
        return ""
    text = f"{100 * value.mean:.2f}"
    return text if value.std is None else f"{text} ± {100 * value.std:.2f}"


def _percent(stats: Stats) -> str:
    return _spread(stats, 100, 2)


def _number(stats: Stats) -> str:
    known = [value for value in stats.values if value is not None]
    if known and len(known) == len(stats.values) and len(set(known)) == 1:
        return f"{known[0]:.0f}"
    return _spread(stats, 1, 1)


def _spread(stats: Stats, scale: float, digits: int) -> str:
    """mean ± std; missing seeds are marked, as `(1/3)`, or `—` where all are missing."""
    if stats.mean is None:
        return "—"
    text = f"{scale * stats.mean:.{digits}f}"
    if stats.std is not None:
        text += f" ± {scale * stats.std:.{digits}f}"
    known = sum(value is not None for value in stats.values)
    return text if known == len(stats.values) else f"{text} ({known}/{len(stats.values)})"


def _pflops(own: float | None, teacher: float | None) -> str:
    text = "—" if own is None else magnitude(own)
    return text if teacher is None else f"{text} (+{magnitude(teacher)})"


def magnitude(pflops: float) -> str:
    """Two decimals as in the paper, or two significant digits where these would show little."""
    return f"{pflops:.2f}" if pflops >= 0.1 else f"{pflops:.2g}"


# Rich


def rich_report(report: Report, width: int) -> RenderableType:
    """The comparison, a line a trajectory with its curve, and the conventions."""
    parts: list[RenderableType] = [Text(report.experiment, style="bold")]
    parts += [_rich_table(rows, variant, width) for variant, rows in _by_variant(report)]
    parts.append(_rich_curves(report))
    parts += [Text(line, style="dim") for line in footnotes(report)]
    return Group(*parts)


def _by_variant(report: Report) -> list[tuple[str, list[ReportRow]]]:
    variants = dict.fromkeys(row.variant for row in report.rows)
    return [(v, [row for row in report.rows if row.variant == v]) for v in variants]


WIDE, NARROW = 156, 124
"""Below so many columns the table shortens the ticks' headings, and leaves some columns out."""


def _rich_table(rows: Sequence[ReportRow], variant: str, width: int) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=escape(variant) or None,
        title_justify="left",
        padding=(0, 1) if width >= WIDE else (0, 1, 0, 0),
        pad_edge=False,
        caption=None if width >= WIDE else "ES early stop, KD distillation, PT pruned teacher",
        caption_justify="left",
    )
    short = {"early stop": "ES", "distillation": "KD", "pruned teacher": "PT"}
    shown = [h for h in HEADINGS if width >= NARROW or h not in LEFT_OUT_WHERE_NARROW]
    for number, heading in enumerate(shown):
        words = heading if width >= WIDE else short.get(heading, heading)
        table.add_column(
            words.replace(" (", "\n(").replace("test ", "test\n").replace("zero ", "zero\n"),
            justify="left" if number == 0 else "center" if number < 4 else "right",
            no_wrap=True,
        )
    for row in rows:
        table.add_row(*_choose(shown, cells(row)))
        published = reference_cells(row)
        if published is not None:
            table.add_row(*_choose(shown, published), style="dim")
    return table


def _choose(headings: Sequence[str], row: Sequence[str]) -> list[str]:
    """The cells of a row that stand under `headings`."""
    named = dict(zip(HEADINGS, row, strict=True))
    return [named[heading] for heading in headings]


def _rich_curves(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("trajectory", "seed", "test accuracy by level", "from, low, high %"):
        table.add_column(heading, justify="left", overflow="fold")
    for trajectory in report.trajectories:
        curve = test_curve(trajectory)
        line = sparkline(curve) if curve else "—"
        name = trajectory_name(report, trajectory)
        table.add_row(name, str(trajectory.seed), line, _extremes(curve))
    return table


def test_curve(trajectory: TrajectoryReport) -> list[float]:
    """Test accuracy by level, as far as it was measured."""
    return [level["test_accuracy"] for level in trajectory.levels if level["kind"] == "measured"]


test_curve.__test__ = False  # type: ignore[attr-defined]  # a name, not a test case


def trajectory_name(report: Report, trajectory: TrajectoryReport) -> str:
    """The recipes whose student a trajectory is, and `teacher` where it teaches."""
    names = [row.recipe for row in report.rows if trajectory.key in row.trajectory_keys]
    if "teacher" in trajectory.roles:
        names.append("teacher")
    return ", ".join(dict.fromkeys(names))


def _extremes(curve: Sequence[float]) -> str:
    """Where a curve starts, and its lowest and highest before it collapses."""
    if not curve:
        return ""
    names = phases(curve)
    alive = [value for value, name in zip(curve, names, strict=True) if name != "collapsed"]
    return " ".join(f"{100 * value:.1f}" for value in (curve[0], min(alive), max(alive)))


def footnotes(report: Report) -> list[str]:
    """What a reader must know: verdicts, what chose the levels, conventions, what is missing."""
    lines = [curve_line(curve) for curve in report.curves]
    if report.selected_on == "test":
        lines.append("Levels were selected on the test set, as in the paper's protocol.")
    else:
        lines.append(f"Levels were selected on the {report.selected_on} set.")
    lines += dict.fromkeys(map(noise_line, report.rows))
    environments = {str(level["environment"]) for t in report.trajectories for level in t.levels}
    if len(environments) > 1:
        lines.append(f"Mixed environments: {'; '.join(sorted(environments))}.")
    diverged = [
        f"{trajectory_name(report, trajectory)} seed {trajectory.seed} at level {level['level']}"
        for trajectory in report.trajectories
        for level in trajectory.levels
        if level["kind"] == "diverged"
    ]
    if diverged:
        lines.append(f"Diverged, and ended there: {'; '.join(diverged)}.")
    lines += [DIP_RULE, PHASES, CONVENTION]
    if not report.complete:
        missing = ", ".join(
            f"{row.recipe} {row.finished_seeds}/{len(row.seeds)} seeds ({row.stop_reason})"
            for row in report.rows
            if row.finished_seeds < len(row.seeds)
        )
        lines.append(f"Incomplete: {missing}.")
    return lines


def curve_line(curve: Curve) -> str:
    """The verdict on a recipe's mean curve."""
    name = f"{curve.recipe} [{curve.variant}]" if curve.variant else curve.recipe
    if not curve.levels:
        return f"{name}: no level yet"
    return (
        f"{name}: dip {100 * curve.dip:.1f} points, "
        f"sparse double descent: {curve.sparse_double_descent}"
    )


def noise_line(row: ReportRow) -> str:
    """The label noise of a row as its spec gives it, and what share of the labels it made wrong."""
    rate = row.flip_rate.mean
    known = "not measured yet" if rate is None else f"{100 * rate:.2f} %"
    return f"Label noise: {row.label_noise}; true flip rate of the training labels: {known}."


# Plain formats


def markdown(reports: Sequence[Report]) -> str:
    """GitHub tables, one a variant, with the footnotes below."""
    parts = []
    for report in reports:
        parts.append(f"## {report.experiment}")
        for variant, rows in _by_variant(report):
            if variant:
                parts.append(f"### {variant}")
            parts.append(_markdown_table(rows))
        parts.append("\n".join(f"- {line}" for line in footnotes(report)))
    return "\n\n".join(parts)


def _markdown_table(rows: Sequence[ReportRow]) -> str:
    alignment = ["---"] + [":-:"] * 3 + ["--:"] * (len(HEADINGS) - 4)
    lines = [[*HEADINGS], alignment]
    for row in rows:
        lines.append(cells(row))
        published = reference_cells(row)
        if published is not None:
            lines.append([f"*{cell.strip()}*" if cell else "" for cell in published])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latex(reports: Sequence[Report]) -> str:
    """booktabs tables that look like the paper's Table 1."""
    parts = []
    for report in reports:
        for variant, rows in _by_variant(report):
            parts.append(_latex_table(report, variant, rows))
    return "\n\n".join(parts)


def _latex_table(report: Report, variant: str, rows: Sequence[ReportRow]) -> str:
    name = f"{report.experiment}: {variant}" if variant else report.experiment
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{_tex(name)}}}",
        "\\begin{tabular}{ccccrr}",
        "\\toprule",
        "Early stop & Distillation & Pruned teacher & Training PFLOPs (teacher) & "
        "Test accuracy [\\%] & Sparsity [\\%] \\\\",
        "\\midrule",
    ]
    for row in rows:
        ticks_and_values = _choose(IN_THE_PAPER, cells(row))
        ticks = ["$\\checkmark$" if cell else "" for cell in ticks_and_values[:3]]
        values = [_tex(cell) for cell in ticks_and_values[3:]]
        lines.append(" & ".join([*ticks, *values]) + f" \\\\ % {row.recipe}")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"])


def _tex(text: str) -> str:
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("±", "$\\pm$").replace("—", "--")


def tidy_csv(reports: Sequence[Report]) -> str:
    """One row a level of each recipe and seed, with what it recorded."""
    stream = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for report in reports:
        trajectories = {trajectory.key: trajectory for trajectory in report.trajectories}
        for row in report.rows:
            for index, seed in enumerate(row.seeds):
                for level in trajectories[row.trajectory_keys[index]].levels:
                    line = {
                        "experiment": report.experiment,
                        "recipe": row.recipe,
                        "variant": row.variant,
                        "seed": seed,
                        "selected": level["level"] == row.level.values[index],
                        "stopped_at": level["level"] == row.stopped_at.values[index],
                        **{k: v for k, v in level.items() if not isinstance(v, dict | list)},
                    }
                    if writer is None:
                        writer = csv.DictWriter(stream, _csv_columns(line), lineterminator="\n")
                        writer.writeheader()
                    writer.writerow(line)
    return stream.getvalue().rstrip("\n")


def _csv_columns(line: dict[str, object]) -> list[str]:
    """The columns of a measured level, plus what a diverged one has instead."""
    return list(dict.fromkeys([*line, "epoch"]))


def as_json(reports: Sequence[Report]) -> str:
    """The report's JSON contract; a list where there are several experiments."""
    data = [report.model_dump(mode="json", by_alias=True) for report in reports]
    return json.dumps(data[0] if len(data) == 1 else data, indent=2, allow_nan=False)


FORMATS: dict[str, Callable[[Sequence[Report]], str]] = {
    "markdown": markdown,
    "latex": latex,
    "csv": tidy_csv,
    "json": as_json,
}
