"""The HTML report: whole without anything else, escaped, and shown by a browser without errors."""

import html.parser
import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import paper_macs, planned, spec_data, write, write_recipe
from reports import diverging, double_descent, nothing, progress_of
from typer.testing import CliRunner

from dsdctl.cli.app import app
from dsdctl.plan.plan import make_plan
from dsdctl.plan.progress import Progress
from dsdctl.report.figures.draw import figures
from dsdctl.report.formats.html.page import html as rendered
from dsdctl.report.formats.html.svg import SVG
from dsdctl.report.ledger import executed, make_ledger, places
from dsdctl.report.notes import DIP_RULE
from dsdctl.report.table import make_report

COMPARED: dict[str, Any] = {
    "student.width": 16,
    "pruning": {"fraction": 0.25, "levels": 15},
    "recipes": ["vanilla", "early-stop", "kd-dense-teacher", "kd-pruned-teacher"],
    "seeds": [0, 1],
}
PUBLISHED = {
    "pflops": 0.5,
    "test_accuracy": {"mean": 0.1234, "std": 0.01},
    "sparsity": {"mean": 0.9962},
}
HOSTILE = (
    "</title></pre><script>alert(1)</script><img src=x onerror=alert(2)>"
    '" id="plan" onclick="alert(3)" {{ 7*7 }}'
)


class Page(html.parser.HTMLParser):
    """Every element of a page with its attributes, and the text outside of style sheets."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def attributes(self, name: str) -> Iterator[str]:
        return (there[name] or "" for _, there in self.elements if name in there)


def page_of(progress: Progress, *options: str) -> str:
    return rendered(progress, make_report(progress, paper_macs), paper_macs, options)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two specs, one of them a matrix, with hostile texts in all that takes them."""
    folder = tmp_path_factory.mktemp("two")
    recipe = folder / "evil"
    write_recipe(recipe, "evil", title=HOSTILE)
    first = {**COMPARED, "title": HOSTILE, "recipes": ["vanilla", "kd-dense-teacher", "evil"]}
    first |= {"warning": HOSTILE, "deviations": [HOSTILE]}
    first["reference"] = {"vanilla": {**PUBLISHED, "note": HOSTILE}}
    second = {"experiment": "second", "matrix": {"dataset.root": [HOSTILE, "b"]}}
    plans = [planned(recipe, first), planned(folder / "second", second)]
    return page_of(progress_of(folder, make_plan([s for plan in plans for s in plan.specs])))


def test_a_page_needs_nothing_else(two: str) -> None:
    page = Page(two)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "base", "form"}
    assert not any(name.startswith("on") for _, there in page.elements for name in there)
    links = [*page.attributes("src"), *page.attributes("href"), *page.attributes("xlink:href")]
    assert links
    assert all(link.startswith("#") or link == "data:," for link in links)
    assert not re.search(r"@import|url\((?!#)", two)


def test_ids_are_unique_and_every_link_has_its_target(two: str) -> None:
    page = Page(two)
    ids = Counter(page.attributes("id"))
    assert [name for name, count in ids.items() if count > 1] == []
    links = [*page.attributes("href"), *page.attributes("xlink:href")]
    wanted = {link[1:] for link in links if link.startswith("#")}
    for _, there in page.elements:
        wanted.update(re.findall(r"url\(#([^)]*)\)", " ".join(filter(None, there.values()))))
    assert len(wanted) > 50
    assert wanted <= ids.keys()


def test_hostile_texts_are_shown_as_they_are(two: str) -> None:
    page = Page(two)
    assert page.text.count(HOSTILE) >= 5
    assert f"Warning: {HOSTILE}" in page.text and f"Not as in the paper: {HOSTILE}" in page.text
    assert json.dumps(HOSTILE) in page.text  # in the text of the spec
    assert "{{ 7*7 }}" in page.text


@pytest.mark.long
def test_a_page_is_the_same_every_time(tmp_path: Path) -> None:
    progress = progress_of(tmp_path, planned(tmp_path, COMPARED))
    assert page_of(progress) == page_of(progress)


def test_the_papers_values_stand_beside_ours_with_the_gap(two: str) -> None:
    shown = {}
    for kind in ("ours", "paper", "gap"):
        line = re.findall(rf'<tr class="{kind}">(.*?)</tr>', two, re.S)[0]
        cells = [re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?</td>", line, re.S)]
        shown[kind] = [float(cell.split(" ")[0]) for cell in cells[3:5] + cells[7:9]]
    assert shown["paper"] == [12.34, 99.62, 0.5, 0.5]
    ours, gaps = shown["ours"], shown["gap"]
    assert gaps == pytest.approx(
        [a - b for a, b in zip(ours, shown["paper"], strict=True)], abs=0.011
    )
    assert two.count('<tr class="paper">') == two.count('<tr class="gap">') == 1


def test_a_page_of_nothing_and_of_a_diverged_seed(tmp_path: Path) -> None:
    empty = Page(page_of(progress_of(tmp_path, planned(tmp_path), nothing)))
    assert "Nothing to draw yet" in empty.text
    assert "not complete" in empty.text
    diverged = page_of(progress_of(tmp_path, planned(tmp_path), diverging(0, at=0)))
    assert "diverged in epoch 3" in diverged


def test_values_lie_on_the_points_of_the_curves(tmp_path: Path) -> None:
    report, *_ = make_report(progress_of(tmp_path, planned(tmp_path, COMPARED)), paper_macs)
    for figure in figures(report):
        root = ElementTree.fromstring(figure.svg)
        drawn = [
            (float(use.attrib["x"]), float(use.attrib["y"]))
            for use in root.iter(f"{{{SVG}}}use")
            if "x" in use.attrib
        ]
        assert figure.values
        for value in figure.values:
            nearest = min(math.dist((value.x, value.y), point) for point in drawn)
            assert nearest < 0.1, value


def test_a_value_says_what_its_point_is(tmp_path: Path) -> None:
    progress = progress_of(tmp_path, planned(tmp_path, COMPARED))
    report, *_ = make_report(progress, paper_macs)
    page = Page(page_of(progress))
    curve = report.curves[0]
    for level, accuracy in enumerate(curve.mean_test_accuracy):
        sparsity = 100 * curve.mean_sparsity[level]
        said = (
            f"vanilla, early-stop\nlevel {level}, sparsity {sparsity:.2f} %\n"
            f"test accuracy (%) {100 * accuracy:.2f} ± "
        )
        assert said.replace("\n", "") in page.text
    row = report.rows[0]
    assert row.test_accuracy.mean is not None
    assert f"vanillatest accuracy (%) {100 * row.test_accuracy.mean:.2f} ± " in page.text


def test_the_dip_rule_stands_beside_its_picture(two: str) -> None:
    (rule,) = set(re.findall(r'<figure class="rule">(.*?)</figure>', two, re.S))
    assert "<svg" in rule and ">before</text>" in rule
    assert " ".join(DIP_RULE.split()) in rule


def test_commands_carry_the_choice_of_recipes_and_seeds(tmp_path: Path) -> None:
    page = Page(page_of(progress_of(tmp_path, planned(tmp_path), nothing), "--recipe", "vanilla"))
    assert "dsdctl run spec.yaml --recipe vanilla\n" in page.text
    assert "dsdctl report spec.yaml --recipe vanilla --output report.html" in page.text


def test_the_ending_of_the_output_chooses_the_format(tmp_path: Path) -> None:
    spec, output = write(tmp_path / "spec.yaml", spec_data()), tmp_path / "report.html"
    options = ["--store", str(tmp_path / "none"), "--output", str(output)]
    done = CliRunner().invoke(app, ["report", str(spec), *options])
    assert done.exit_code == 0, done.stderr
    assert output.read_text().startswith("<!doctype html>")
    assert "dsdctl run spec.yaml" in output.read_text()


def test_an_ending_that_says_no_format_is_refused(tmp_path: Path) -> None:
    spec, output = write(tmp_path / "spec.yaml", spec_data()), tmp_path / "report.pdf"
    line = ["report", str(spec), "--store", str(tmp_path / "none"), "--output", str(output)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2
    assert done.stderr == (
        f"--output: {output}: unknown format .pdf "
        "(allowed: .md, .tex, .csv, .json, .html, .txt; --format)\n"
    )
    assert not output.exists()
    assert CliRunner().invoke(app, [*line, "--format", "rich"]).exit_code == 0
    assert output.exists()


def test_only_a_file_of_html_can_be_opened(tmp_path: Path) -> None:
    spec, output = write(tmp_path / "spec.yaml", spec_data()), tmp_path / "report.md"
    for options in ([], ["--output", str(output)]):
        done = CliRunner().invoke(app, ["report", str(spec), "--open", *options])
        assert done.exit_code == 2
        assert done.stderr == "--open: needs an HTML file (--output report.html)\n"
    assert not output.exists()


def test_findings_name_variants_in_words(tmp_path: Path) -> None:
    """Paths of a matrix would push the last column out of a window of 1,280 pixels."""
    plan = planned(tmp_path, {"matrix": {"label_noise.rate": [0.2, 0.4], "student.width": [8]}})
    page = Page(page_of(progress_of(tmp_path, plan, double_descent)))
    assert "vanilla [noise 20 %, width 8]" in page.text


class TestLedger:
    def test_executed_counts_shared_work_once(self, tmp_path: Path) -> None:
        """early-stop reads vanilla's levels: attributed again, executed once."""
        alone = _ledger(tmp_path / "1", ["vanilla"])
        both = _ledger(tmp_path / "2", ["vanilla", "early-stop"])
        assert both.executed == alone.executed
        assert both.attributed > alone.attributed

    def test_executed_is_the_trainings_and_what_was_measured(self, tmp_path: Path) -> None:
        """4 levels of 862 images x 4 epochs, and each of 1797 images measured once a level."""
        macs, images = 67_831_296, 862
        executed = 4 * macs * (3 * images * 4 + 1797) / 1e15
        assert _ledger(tmp_path, ["vanilla"]).executed == pytest.approx(executed)

    def test_a_level_that_trajectories_share_is_executed_once(self, tmp_path: Path) -> None:
        """Two ways to retrain have the dense network in common."""
        plan = planned(tmp_path, {"matrix": {"pruning.retrain": ["rewind", "reinit"]}})
        progress = progress_of(tmp_path, plan, double_descent)
        first, second = (known.levels for known in progress.known.values())
        second[0] = first[0]
        pieces = executed(progress, paper_macs)
        owners = Counter(piece.trajectory.key for piece in pieces)
        assert list(owners.values()) == [4, 3]
        ledger = make_ledger(progress, make_report(progress, paper_macs), paper_macs)
        assert ledger.executed == sum(piece.pflops for piece in pieces)

    def test_levels_are_counted_where_they_were_computed(self, tmp_path: Path) -> None:
        plan = planned(tmp_path, {"recipes": ["vanilla", "early-stop"], "seeds": [0, 1]})
        (place,) = places(progress_of(tmp_path, plan))
        assert (place.levels, place.wall_seconds) == (8, 8.0)


def _ledger(folder: Path, recipes: list[str]) -> Any:
    progress = progress_of(folder, planned(folder, {"recipes": recipes}), double_descent)
    return make_ledger(progress, make_report(progress, paper_macs), paper_macs)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
class TestInChromium:
    @pytest.fixture
    def page(self, two: str, tmp_path: Path) -> Path:
        return write(tmp_path / "report.html", two)

    @pytest.fixture
    def compared(self, tmp_path: Path) -> Path:
        """A page of recipes with long names, teachers and all columns filled."""
        recipes = [*COMPARED["recipes"], "kd-pruned-sparsest"]
        plan = planned(tmp_path, {**COMPARED, "recipes": recipes})
        return write(tmp_path / "compared.html", page_of(progress_of(tmp_path, plan)))

    def test_shows_it_without_errors_or_requests(self, page: Path) -> None:
        """Its own policy forbids scripts and requests; one that is tried is an error."""
        shown = _chromium("--dump-dom", "--enable-logging=stderr", page)
        assert "How to reproduce" in shown.stdout
        assert "CONSOLE" not in shown.stderr
        for evil in ('<img src="http://127.0.0.1:9/x">', "<script>1</script>"):
            page.write_text(page.read_text().replace("<main>", f"<main>{evil}"))
            tried = _chromium("--dump-dom", "--enable-logging=stderr", page)
            assert "Content Security Policy" in tried.stderr

    @pytest.mark.parametrize("width", [375, 1280, 1400])
    def test_is_no_wider_than_its_window(self, page: Path, width: int) -> None:
        assert float(_measured(page, width, "document.documentElement.scrollWidth")) <= width

    def test_shows_every_column_of_the_comparison_on_1280(self, compared: Path) -> None:
        found = "(box => box.scrollWidth - box.clientWidth)(document.querySelector('.comparison'))"
        assert float(_measured(compared, 1280, found)) <= 0

    def test_shows_the_accuracy_on_a_phone(self, compared: Path) -> None:
        cell = "[...document.querySelectorAll('.comparison .ours td:not(.tick)')][0]"
        box = "document.querySelector('.comparison')"
        right = f"{cell}.getBoundingClientRect().right - {box}.getBoundingClientRect().right"
        assert float(_measured(compared, 375, right)) <= 0
        assert re.fullmatch(r"\d\d\.\d\d ± \d\.\d\d", _measured(compared, 375, f"{cell}.innerText"))

    def test_prints(self, page: Path) -> None:
        pdf = page.with_suffix(".pdf")
        _chromium(f"--print-to-pdf={pdf}", page)
        assert pdf.read_bytes().startswith(b"%PDF")


def _measured(page: Path, width: int, expression: str) -> str:
    """What a script of this test's own, which the report has not, finds in a window so wide."""
    probe = f"<script>document.title = 'found ' + ({expression})</script>"
    framed = page.with_name("probe.html")
    text = re.sub('<meta http-equiv="Content-Security-Policy".*?>', "", page.read_text())
    framed.write_text(text.replace("</body>", f"{probe}</body>"))
    frame = page.with_name("frame.html")
    frame.write_text(
        f'<iframe src="probe.html" width="{width}" height="900" onload="document.title = '
        'this.contentDocument.title"></iframe>'
    )
    dom = _chromium("--dump-dom", "--allow-file-access-from-files", frame).stdout
    (found,) = re.findall(r"<title>found (.*)</title>", dom)
    return str(found)


def _chromium(*arguments: object) -> subprocess.CompletedProcess[str]:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command = [str(CHROMIUM), *options, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
