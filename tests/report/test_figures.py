"""Figures: the same bytes every time, nothing over anything else, and nothing loaded in vain."""

import io
import itertools
import struct
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from reports import TWINS, double_descent, nothing, report_of

from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.figures import style
from dsdctl.report.figures.against_pflops import (
    SHAPES,
    against_pflops,
    cost_ticks,
    pareto_front,
    priced,
)
from dsdctl.report.figures.by_level import CURVES, MEMORISATION, by_level
from dsdctl.report.figures.draw import Drawn, figures, save_figures
from dsdctl.report.figures.themes import SLIDES, Style, Theme
from dsdctl.report.formats.html.svg import SVG
from dsdctl.report.panels import clouds, panels
from dsdctl.report.table import Report
from dsdctl.results import Measured
from dsdctl.units import FlopsUnit

ALL_KINDS: dict[str, Any] = {
    "experiment": "all-kinds",
    "title": "A <title> & more",
    "student.width": 16,
    "pruning": {"fraction": 0.25, "levels": 18},
    "recipes": ["vanilla", "early-stop", "kd-dense-teacher", "kd-pruned-teacher"],
    "seeds": [0, 1, 2],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return report_of(tmp_path_factory.mktemp("report"), ALL_KINDS)


@pytest.fixture(scope="module")
def drawn(report: Report) -> list[Drawn]:
    return list(figures(report))


def test_a_report_gives_three_figures(drawn: list[Drawn]) -> None:
    names = [figure.name for figure in drawn]
    assert names == ["all-kinds-curves", "all-kinds-memorisation", "all-kinds-pflops"]


def test_the_same_report_gives_the_same_bytes(report: Report, drawn: list[Drawn]) -> None:
    """Also read back from its JSON, since nothing else goes in, and whatever a user has set."""
    own = {"font.size": 20.0, "svg.hashsalt": None, "lines.linewidth": 9.0}
    with mpl.rc_context(own):
        again = list(figures(Report.model_validate_json(report.model_dump_json(by_alias=True))))
        assert {name: mpl.rcParams[name] for name in own} == own
    assert again == drawn


def test_svg_is_well_formed_and_says_what_it_shows(drawn: list[Drawn]) -> None:
    for figure in drawn:
        root = ElementTree.fromstring(figure.svg)
        texts = [element.text for element in root.iter() if element.text]
        assert figure.title in texts
        assert any(text.startswith("A <title> & more: ") for text in texts)
        assert "<dc:date>" not in figure.svg


def test_a_figure_is_one_column_wide_and_several_panels_two(tmp_path: Path) -> None:
    with style.settings():
        (single,) = _page(report_of(tmp_path / "1", ALL_KINDS), CURVES)
        (double,) = _page(report_of(tmp_path / "2", TWINS["figure4"]), CURVES)
    assert 25.4 * single.get_figwidth() == pytest.approx(85)
    assert 25.4 * double.get_figwidth() == pytest.approx(178)


def test_png_has_300_dots_an_inch(drawn: list[Drawn]) -> None:
    for figure in drawn:
        assert figure.png.startswith(b"\x89PNG")
        width, _ = struct.unpack(">II", figure.png[16:24])
        assert width == pytest.approx(300 * 85 / 25.4, abs=1)


STYLES: list[Style] = ["paper", "slides", "dark"]


@pytest.mark.long
@pytest.mark.parametrize("style_name", STYLES)
def test_a_figure_is_as_wide_as_is_asked_for_in_any_style(
    report: Report, style_name: Style
) -> None:
    (figure, *_) = figures(report, Theme(style_name, 5.5))
    root = ElementTree.fromstring(figure.svg)
    assert root.attrib["width"] == "396pt"
    assert struct.unpack(">I", figure.png[16:20]) == (1650,)
    assert b"/MediaBox [ 0 0 396 " in figure.pdf


def test_slides_have_letters_and_lines_twice_as_large_on_twice_the_width(report: Report) -> None:
    def sizes(theme: Theme) -> tuple[list[float], list[float], float]:
        with style.settings(theme.scale):
            figure = theme.applied(by_level(CURVES, "one seed", theme.width, panels(report)))
            texts = [float(text.get_fontsize()) for text in figure.findobj(Text)]
            lines = [line.get_linewidth() for axes in figure.axes for line in axes.lines]
            return texts, lines, figure.get_figwidth()

    (texts, lines, width), slides = sizes(Theme()), sizes(Theme("slides"))
    assert slides[0] == pytest.approx([SLIDES * size for size in texts])
    assert slides[1] == pytest.approx([SLIDES * size for size in lines])
    assert slides[2] == pytest.approx(SLIDES * width)


def test_dark_figures_are_light_on_dark(report: Report) -> None:
    with style.settings():
        figure = Theme("dark").applied(by_level(CURVES, "one seed", None, panels(report)))
    ground = max(to_rgb(figure.get_facecolor()))
    assert ground < 0.1
    shown = [text.get_color() for text in figure.findobj(Text) if text.get_text()]
    shown += [line.get_color() for axes in figure.axes for line in axes.lines]
    assert all(max(to_rgb(color)) > 0.45 for color in shown)


def test_colours_differ_as_greys() -> None:
    """By Rec. 601's luma, as a grey printer or a copy shows them."""
    greys = sorted(
        0.299 * red + 0.587 * green + 0.114 * blue for red, green, blue in map(to_rgb, style.COLORS)
    )
    assert all(after - before > 0.08 for before, after in itertools.pairwise(greys))
    assert greys[-1] < 0.85  # on white


def test_text_of_svg_is_text(drawn: list[Drawn]) -> None:
    curves, memorisation, pflops = (
        {
            "".join(element.itertext()).strip()
            for element in ElementTree.fromstring(figure.svg).iter(f"{{{SVG}}}text")
        }
        for figure in drawn
    )
    assert {"vanilla, early-stop", "test accuracy (%)", "sparsity (%)"} <= curves
    assert any("% of flipped labels" in text for text in memorisation)
    assert {"vanilla", "early-stop", "its teacher's part", "Pareto front"} <= pflops


def test_what_a_teacher_costs_is_no_error_bar(report: Report) -> None:
    """A dotted line from an empty dot, where error bars are drawn through and have no end."""
    with style.settings():
        figure = against_pflops(None, clouds(report))
    (axes,) = figure.axes
    parts = [line for line in axes.lines if line.get_linestyle() == ":" or line.is_dashed()]
    costs = {
        (row.pflops.mean, row.total_pflops) for row in report.rows if row.teacher_pflops is not None
    }
    assert {tuple(line.get_xdata()) for line in parts} == costs
    assert {line.get_markerfacecolor() for line in parts} == {"white"}
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "its teacher's part" in names


def test_costs_of_small_networks_are_drawn_in_a_unit_that_can_be_read(report: Report) -> None:
    """The dots lie where they lay, with other numbers below."""
    with style.settings():
        (large,) = against_pflops(None, clouds(report)).axes
        (small,) = against_pflops(None, clouds(report), FlopsUnit("GFLOPs", 1e6)).axes
    assert small.get_xlabel() == "training GFLOPs, the teacher's included"
    assert small.get_xlim() == pytest.approx([1e6 * limit for limit in large.get_xlim()])
    texts = "".join(str(line.get_label()) for line in small.lines)
    assert "GFLOPs" in texts and "PFLOPs" not in texts


def _page(report: Report, quantities: Sequence[Any]) -> list[Figure]:
    return [by_level(quantities, "mean and standard deviation over 3 seeds", None, panels(report))]


LONG = "a-name-of-sixty-four-characters-which-is-the-most-that-a-name-has"[:64]


def _renamed(report: Report) -> Report:
    """The same with recipes and variants as long as they may be."""
    rows = tuple(
        row.model_copy(update={"recipe": f"{number}{LONG[1:]}", "axes": {"student.x": LONG}})
        for number, row in enumerate(report.rows)
    )
    curves = tuple(
        curve.model_copy(update={"recipe": row.recipe})
        for curve, row in zip(report.curves, rows, strict=True)
    )
    return report.model_copy(update={"rows": rows, "curves": curves})


def _every_phase_in_one_level(trajectory: Trajectory, level: int) -> Measured:
    accuracy = [0.7, 0.5, 0.7, 0.2, *[0.1] * 30][level]
    changes = {"test_accuracy": accuracy, "validation_accuracy": accuracy}
    return double_descent(trajectory, level).model_copy(update=changes)


CASES: dict[str, Callable[[Path], Report]] = {
    "all kinds": lambda folder: report_of(folder, ALL_KINDS),
    "sizes": lambda folder: report_of(folder, TWINS["figure4"]),
    "six panels": lambda folder: report_of(folder, TWINS["figure5"]),
    "long names": lambda folder: _renamed(report_of(folder, ALL_KINDS)),
    "narrow phases": lambda folder: report_of(folder, TWINS["figure2"], _every_phase_in_one_level),
    "one level": lambda folder: report_of(folder, {"pruning.levels": 0}),
    "no pruning": lambda folder: report_of(
        folder, {"pruning": {"criterion": "none", "levels": 12}}
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_no_text_lies_over_another_or_leaves_the_figure(tmp_path: Path, case: str) -> None:
    report = CASES[case](tmp_path)
    with style.settings():
        made = [*_page(report, CURVES), *_page(report, MEMORISATION)[: case == "all kinds"]]
        for figure in [*made, against_pflops(None, clouds(report))]:
            texts = _texts(figure)
            assert len(texts) >= 5
            for (one, box), (other, beside) in itertools.combinations(texts, 2):
                assert not box.overlaps(beside), f"{one!r} lies over {other!r}"
            inside = figure.bbox.padded(1)
            for text, box in texts:
                assert inside.contains(box.x0, box.y0), f"{text!r} leaves the figure"
                assert inside.contains(box.x1, box.y1), f"{text!r} leaves the figure"


def _texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is shown and where it stands, in pixels."""
    figure.savefig(io.BytesIO(), format="png", dpi=100)
    left_out = {label for axes in figure.axes for label in _labels_left_out(axes)}
    shown = [text for text in figure.findobj(Text) if text.get_visible() and text not in left_out]
    return [(t.get_text(), t.get_window_extent()) for t in shown if t.get_text().strip()]


def _labels_left_out(axes: Axes) -> Iterator[Text]:
    """The labels of ticks outside of what is shown, and of axes that are switched off."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not (axes.axison and low <= tick.get_loc() <= high):
                yield from (tick.label1, tick.label2)


def test_text_of_a_variant_is_no_markup_and_may_be_in_any_script(tmp_path: Path) -> None:
    matrix = {"dataset.root": ["$x^{", "<b>&amp;", "字"]}
    recipes = ["vanilla", "kd-dense-teacher"]
    drawn = list(figures(report_of(tmp_path, {"matrix": matrix, "recipes": recipes})))
    assert len(drawn) == 3
    for figure in drawn:
        ElementTree.fromstring(figure.svg)


def test_without_flipped_labels_there_is_no_memorisation(tmp_path: Path) -> None:
    clean = report_of(tmp_path, {"label_noise": {"rate": 0.0}})
    assert [figure.name for figure in figures(clean)] == ["small-curves"]


def test_a_point_that_is_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    assert priced(clouds(report_of(tmp_path / "2", TWINS["figure2"]))) == []
    assert len(priced(clouds(report_of(tmp_path / "5", TWINS["figure5"])))) == 6


def test_points_of_variants_are_told_apart(tmp_path: Path) -> None:
    """Four networks in two recipes; `depth 1` is `depth 1, width 32` but for its name."""
    sizes = [{"student.depth": [1, 2]}, {"student.depth": [1], "student.width": [16, 32, 64]}]
    shown = clouds(report_of(tmp_path, {**TWINS["figure4"], "matrix": sizes}))
    with style.settings():
        figure = against_pflops(None, shown)
    (axes,) = figure.axes
    drawn = {
        (line.get_color(), line.get_marker(), *map(float, line.get_xydata()[0]))
        for line in axes.lines
        if line.get_linestyle() == "None" and len(line.get_xydata()) == 1
    }
    assert len({(color, marker) for color, marker, *_ in drawn if marker in SHAPES}) == 2 * 4
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    variants = ["depth 1", "depth 2", "depth 1, width 16", "depth 1, width 64"]
    assert names == [
        "vanilla", "kd-dense-teacher", "its teacher's part", "Pareto front", *variants
    ]  # fmt: skip


def test_before_the_first_level_there_is_nothing_to_draw(tmp_path: Path) -> None:
    assert list(figures(report_of(tmp_path, make=nothing))) == []


def test_an_unfinished_report_is_drawn_as_far_as_it_has_come(tmp_path: Path) -> None:
    def make(trajectory: Trajectory, level: int) -> Measured | None:
        return double_descent(trajectory, level) if level <= trajectory.seed else None

    started = report_of(tmp_path, {"seeds": [0, 1, 2]}, make)
    assert [figure.name for figure in figures(started)] == ["small-curves", "small-memorisation"]


def test_a_caption_names_the_convention_of_the_pflops(drawn: list[Drawn]) -> None:
    *_, pflops = drawn
    assert "one FLOP is one multiply-accumulate" in pflops.caption
    assert "one FLOP is one multiply-accumulate" in " ".join(pflops.svg.split())


@settings(deadline=None, max_examples=200)
@given(low=st.floats(1e-9, 1e9), ratio=st.floats(1.001, 1e9))
def test_costs_are_labelled_with_two_to_five_ticks(low: float, ratio: float) -> None:
    ticks = cost_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 5
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert len({f"{tick:.6g}" for tick in ticks}) == len(ticks)


def test_ticks_of_costs_are_round() -> None:
    assert cost_ticks(0.0004, 0.004) == pytest.approx([0.0005, 0.001, 0.002])
    assert cost_ticks(4, 150) == [5, 10, 20, 50, 100]
    assert cost_ticks(1, 1e9) == pytest.approx([1, 1e2, 1e4, 1e6, 1e8])
    assert cost_ticks(0.00134, 0.00166) == pytest.approx([0.0014, 0.0015, 0.0016])


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12)


@settings(deadline=None, max_examples=150)
@given(points=POINTS)
def test_the_pareto_front_holds_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    def beaten(point: tuple[int, int]) -> bool:
        cost, accuracy = point
        return any(c <= cost and a >= accuracy and (c, a) != point for c, a in points)

    assert pareto_front(points) == sorted({point for point in points if not beaten(point)})


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    empty = report_of(tmp_path, make=nothing)
    assert list(save_figures([empty], tmp_path / "figures")) == ["small: nothing to draw yet"]


LOADED = """
import sys
from pathlib import Path
import dsdctl.cli.app
from dsdctl.report.formats.text import FORMATS
from dsdctl.report.table import Report
from dsdctl.units import FlopsUnit
assert "matplotlib" not in sys.modules
from dsdctl.report.figures.draw import figures
assert len(list(figures(Report.model_validate_json(Path(sys.argv[1]).read_text())))) == 3
assert "matplotlib.pyplot" not in sys.modules
"""


def test_matplotlib_is_loaded_for_figures_only_and_pyplot_never(
    report: Report, tmp_path: Path
) -> None:
    file = tmp_path / "report.json"
    file.write_text(report.model_dump_json(by_alias=True))
    subprocess.run([sys.executable, "-W", "error", "-c", LOADED, str(file)], check=True)
