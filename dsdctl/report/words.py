"""The answer in words, to stand above the table: what to deploy, what it costs, what was saved."""

import textwrap
from collections.abc import Sequence

from dsdctl.report.answer import Answer, Recommended, Saved
from dsdctl.report.axes import variant_words
from dsdctl.report.rows import ReportRow
from dsdctl.report.shortening import joined
from dsdctl.report.table import Report
from dsdctl.units import duration, flops


def answer_lines(report: Report, *, timed: bool = True) -> list[str]:
    """What to deploy, what each stop rule saved, and last what the recommended row costs; `timed`:
    in seconds too, which no two runs have alike.

    Where there are several variants, one line each of the first, and of what is known to have been
    saved for how many points.
    """
    if len(report.answers) == 1:
        (answer,) = report.answers
        return _sentences(answer, report.rows, timed)
    return [
        " ".join([_recommended(answer), *_stops([s for s in answer.saved if s.difference])])
        for answer in report.answers
        if answer.recommended is not None
    ]


def wrapped(text: str, width: int) -> str:
    """A sentence on lines of this width, no number parted from its `%`."""
    joined_up = text.replace(" %", "\u00a0%")
    lines = textwrap.wrap(joined_up, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\u00a0", " ")


def _sentences(answer: Answer, rows: Sequence[ReportRow], timed: bool) -> list[str]:
    network = answer.recommended
    if network is None:
        return []
    (row,) = [row for row in rows if (row.recipe, row.variant) == (network.recipe, answer.variant)]
    return [
        _recommended(answer),
        *_stops(answer.saved),
        _cost(row) + (_time(row) if timed else "."),
    ]


def _stops(saved: Sequence[Saved]) -> list[str]:
    """A sentence for the recipes that saved the same."""
    stops: dict[str, list[str]] = {}
    for one in saved:
        stops.setdefault(_saved(one), []).append(one.recipe)
    return [f"Early stop ({joined(names)}) {words}." for words, names in stops.items()]


def _recommended(answer: Answer) -> str:
    network = answer.recommended
    assert network is not None
    so_far = "" if answer.complete else " so far"
    where = f" for {variant_words(answer.axes)}" if answer.axes else ""
    gain = network.difference_to_dense
    over = f", {100 * gain.mean:+.1f} points over dense {gain.baseline}" if gain else ""
    accuracy = f"test accuracy {_accuracy(network)}"
    return f"Recommended{so_far}{where}: {network_words(network)}, {accuracy}{over}."


def network_words(network: Recommended) -> str:
    """A network by its recipe and level; one of which nothing is pruned is called dense."""
    if network.dense:
        return f"the dense network of {network.recipe} (level {network.level}, nothing pruned)"
    sparsity = 100 * (network.sparsity.mean or 0.0)
    return f"{network.recipe} at level {network.level}, {sparsity:.2f} % sparse"


def _accuracy(network: Recommended) -> str:
    accuracy = f"{100 * (network.test_accuracy.mean or 0.0):.2f} %"
    if network.low is None or network.high is None:
        return f"{accuracy} (one seed)"
    return f"{accuracy} [{100 * network.low:.2f}, {100 * network.high:.2f}]"


def _saved(saved: Saved) -> str:
    if saved.share == 0:
        return f"never stopped: all {saved.trainings_max} levels were trained"
    text = f"saved {100 * saved.share:.0f} % of the training PFLOPs"
    if saved.difference is None:
        return f"{text}, {saved.trainings:.3g} of {saved.trainings_max} levels trained"
    points, whole = 100 * saved.difference.mean, saved.difference.baseline
    if round(points, 1) >= 0:
        return f"{text} and lost nothing ({points:+.1f} points against {whole})"
    return f"{text} for {-points:.1f} points of test accuracy, against {whole}"


def _cost(row: ReportRow) -> str:
    """What one seed of a row costs; PFLOPs in the paper's convention."""
    text = f"A seed of {row.recipe} costs {flops(row.total_pflops or 0.0)}"
    if row.teacher_pflops:
        share = row.teacher_pflops / (row.total_pflops or 1.0)
        text += f", {100 * share:.0f} % of them its teacher's"
    return text


def _time(row: ReportRow) -> str:
    """How long one seed of a row took."""
    text = f"; its training took {duration(row.wall_seconds.mean or 0.0)}"
    if row.teacher_wall_seconds:
        text += f", its teacher's {duration(row.teacher_wall_seconds)}"
    return f"{text} in one process."
