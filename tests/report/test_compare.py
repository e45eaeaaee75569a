"""The difference of two reports, and several specs in one report."""

import csv
import io
import json
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders import measured, paper_macs, planned, resolved, spec_data, write
from reports import double_descent, progress_of, report_of
from rich.console import Console
from scipy import stats as scipy_stats
from typer.testing import CliRunner

from dsdctl.cli.app import app
from dsdctl.errors import InputError
from dsdctl.plan.plan import make_plan
from dsdctl.plan.rows import ResolvedSpec
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.compare import Comparison, compare
from dsdctl.report.figures.draw import save_figures
from dsdctl.report.formats.compare import compared, render_comparison
from dsdctl.report.formats.csv import tidy_csv
from dsdctl.report.formats.text import render
from dsdctl.report.seeds import stats
from dsdctl.report.table import Report, make_report
from dsdctl.results import Measured

FIRST: dict[str, Any] = {
    "student.width": 16,
    "pruning": {"fraction": 0.25, "levels": 15},
    "recipes": ["vanilla", "early-stop", "kd-dense-teacher"],
    "seeds": [0, 1, 2],
}
SECOND = {**FIRST, "experiment": "other", "recipes": ["vanilla", "kd-dense-teacher"]}


def better(trajectory: Trajectory, level: int) -> Measured:
    """5 points above, and another half a point a seed."""
    made = double_descent(trajectory, level)
    more = 0.05 + 0.005 * trajectory.seed
    changes = {"test_accuracy": made.test_accuracy + more}
    return made.model_copy(update=changes)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return report_of(tmp_path_factory.mktemp("first"), FIRST)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return report_of(tmp_path_factory.mktemp("second"), {**SECOND, "seeds": [1, 2, 3]}, better)


class TestCompare:
    def test_pairs_seeds_by_their_number(self, first: Report, second: Report) -> None:
        vanilla, _ = compare(first, second, ("a", "b")).rows
        assert vanilla.paired == (1, 2)
        difference = vanilla.difference
        assert difference is not None
        assert difference.mean == pytest.approx(0.05 + 0.005 * 1.5)
        pairs = [0.055, 0.06]
        low, high = scipy_stats.t.interval(0.95, 1, statistics.fmean(pairs), 0.0025)
        assert (difference.low, difference.high) == pytest.approx((low, high))

    def test_of_a_report_with_itself_is_nothing(self, first: Report) -> None:
        for row in compare(first, first, ("a", "b")).rows:
            assert row.difference is not None
            assert (row.difference.mean, row.difference.low, row.difference.high) == (0, 0, 0)
            assert row.first == row.second

    def test_names_the_rows_that_only_one_has(self, first: Report, second: Report) -> None:
        comparison = compare(first, second, ("a", "b"))
        assert comparison.only_in_first == ("early-stop",)
        assert comparison.only_in_second == ()
        turned = compare(second, first, ("b", "a"))
        assert turned.only_in_second == ("early-stop",)
        assert [row.name for row in turned.rows] == [row.name for row in comparison.rows]

    def test_is_over_the_same_seeds_in_every_column(self, first: Report) -> None:
        """A seed that only one has moves no difference, however far it is off."""
        row = first.rows[0]
        without_first = {
            "seeds": row.seeds[1:],
            "trajectory_keys": row.trajectory_keys[1:],
            **{
                name: stats(getattr(row, name).values[1:])
                for name in ("test_accuracy", "pflops", "level", "sparsity")
            },
        }
        far = {name: stats([9.0, *getattr(row, name).values[1:]]) for name in ("level", "pflops")}
        ours = first.model_copy(update={"rows": (row.model_copy(update=far),)})
        theirs = first.model_copy(update={"rows": (row.model_copy(update=without_first),)})
        (line,) = [
            line
            for line in shown(compare(ours, theirs, ("a", "b")), "markdown").splitlines()
            if "| difference |" in line
        ]
        assert line.endswith("| +0.00 [+0.00, +0.00] (2/3) | +0 | +0.00 | +0.0 |")

    def test_without_pairs_has_no_interval(self, first: Report, tmp_path: Path) -> None:
        others = report_of(tmp_path, {**SECOND, "seeds": [7, 8]}, better)
        comparison = compare(first, others, ("a", "b"))
        assert [row.difference for row in comparison.rows] == [None, None]
        assert "(no seed pairs)" in shown(comparison, "markdown")

    @pytest.mark.parametrize("width", [80, 160])
    def test_is_shown_whole(self, first: Report, second: Report, width: int) -> None:
        text = shown(compare(first, second, ("a [b]", "c | d")), "rich", width)
        assert "c | d compared with a [b]" in text
        assert max(map(len, text.splitlines())) <= width
        assert "+5.75" in text
        assert "Only in a [b]: early-stop." in text
        numbers = shown(compare(first, second, ("a", "b")), "markdown")
        unbroken = re.findall(r"[\d.]+ ± [\d.]+|\[[^|]*, [^|]*\]", numbers)
        assert len(unbroken) > 4
        assert [number for number in unbroken if number not in text] == [], text

    def test_is_a_table_of_markdown(self, first: Report, second: Report) -> None:
        text = shown(compare(first, second, ("a", "c | <d>")), "markdown")
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len(lines) == 2 + 2 * 3
        assert {line.replace("\\|", "").count("|") for line in lines} == {7}
        assert "<d>" not in text

    def test_is_json_that_loads_back(self, first: Report, second: Report) -> None:
        comparison = compare(first, second, ("a", "b"))
        text = shown(comparison, "json")
        assert json.loads(text)["schema"] == "dsdctl.comparison/1"
        assert Comparison.model_validate_json(text) == comparison


class TestVariants:
    """Which variants are compared where the specs have other matrices."""

    @staticmethod
    def compared(folder: Path, *matrices: Any) -> Comparison:
        sides = []
        for number, matrix in enumerate(matrices):
            changes = {"experiment": f"e{number}", "recipes": ["vanilla"], "student.width": 16}
            changes |= {"matrix": matrix} if matrix else {}
            plan = planned(folder / str(number), changes)
            sides.append(progress_of(folder, plan, better if number else double_descent))
        text = compared(sides, "json", Console(width=160))
        return Comparison.model_validate_json(text)

    def test_that_stand_in_another_order_are(self, tmp_path: Path) -> None:
        noise, depth = {"label_noise.rate": [0.2, 0.5]}, {"student.depth": [1, 2]}
        comparison = self.compared(tmp_path, {**noise, **depth}, {**depth, **noise})
        assert len(comparison.rows) == 4
        for row in comparison.rows:
            assert row.difference is not None
            assert row.difference.mean == pytest.approx(0.05)
        assert comparison.only_in_first == comparison.only_in_second == ()

    def test_that_only_one_has_are_named(self, tmp_path: Path) -> None:
        comparison = self.compared(
            tmp_path, {"label_noise.rate": [0.2, 0.5]}, {"label_noise.rate": [0.5, 0.8]}
        )
        (row,) = comparison.rows
        assert row.name == "vanilla [label_noise.rate=0.5]"
        assert comparison.only_in_first == ("vanilla [label_noise.rate=0.2]",)
        assert comparison.only_in_second == ("vanilla [label_noise.rate=0.8]",)

    def test_are_shown_in_words_none_of_which_is_broken_at_80_columns(self, tmp_path: Path) -> None:
        matrix = {"label_noise.rate": [0.2, 0.5], "student.width": [16]}
        console = Console(width=80)
        text = render_comparison(self.compared(tmp_path, matrix, matrix), "rich", console)
        assert {"vanilla", "[noise", "difference"} <= set(text.split())
        assert "label_noise" not in text

    @pytest.mark.parametrize("turned", [False, True])
    def test_of_an_axis_that_one_spec_fixes_are_those_of_its_value(
        self, tmp_path: Path, turned: bool
    ) -> None:
        matrices: list[Any] = [{"student.width": [8, 16]}, None]
        comparison = self.compared(tmp_path, *(reversed(matrices) if turned else matrices))
        (row,) = comparison.rows
        assert row.axes == {"student.width": "16"}
        (other,) = comparison.only_in_second if turned else comparison.only_in_first
        assert other == "vanilla [student.width=8]"


class TestFormats:
    def test_csv_has_a_line_a_row_with_its_numbers(self, first: Report, second: Report) -> None:
        comparison = compare(first, second, ("a", "b"))
        lines = list(csv.DictReader(io.StringIO(shown(comparison, "csv"))))
        assert [line["recipe"] for line in lines] == [row.recipe for row in comparison.rows]
        for line, row in zip(lines, comparison.rows, strict=True):
            assert row.difference is not None
            assert float(line["difference_mean"]) == row.difference.mean
            assert float(line["test_accuracy_second"]) == row.second.test_accuracy.mean
            assert int(line["paired_seeds"]) == 2

    def test_latex_has_three_lines_a_row_in_math_mode(self, first: Report, second: Report) -> None:
        text = shown(compare(first, second, ("a", "c_d")), "latex")
        lines = [line for line in text.splitlines() if " & " in line]
        assert len(lines) == 1 + 3 * 2
        assert {line.count("&") for line in lines} == {5}
        assert "$+5.75$" in text and "c\\_d" in text

    def test_html_is_a_page_of_its_own_and_escaped(self, first: Report, second: Report) -> None:
        text = shown(compare(first, second, ("a", "<script>1</script>")), "html")
        assert text.startswith("<!doctype html>")
        assert "<script" not in text
        assert text.count("<tr><th") == 1 + 3 * 2
        assert "+5.75" in text and "Only in a: early-stop." in text


def shown(comparison: Comparison, style: str, width: int = 160) -> str:
    return render_comparison(comparison, style, Console(width=width))


class TestCommand:
    def report(self, folder: Path, *options: object) -> tuple[int, str]:
        one = write(folder / "one.yaml", spec_data())
        two = write(folder / "two.yaml", spec_data({"seeds": [1]}))
        line = ["report", one, two, "--store", folder / "none", *options]
        done = CliRunner().invoke(app, [str(part) for part in line])
        return done.exit_code, done.stdout or done.stderr

    def test_names_files_where_both_are_one_experiment(self, tmp_path: Path) -> None:
        code, text = self.report(tmp_path, "--compare", "--format", "json")
        assert code == 0
        found = json.loads(text)
        names = [Path(found[side]).name for side in ("first", "second")]
        assert names == ["one.yaml", "two.yaml"]

    def test_refuses_what_it_cannot_compare(self, tmp_path: Path) -> None:
        code, text = self.report(tmp_path, "--compare", "--figures", tmp_path / "f")
        assert (code, "--compare: not with --figures" in text) == (2, True)
        code, text = self.report(tmp_path, tmp_path / "one.yaml", "--compare")
        assert (code, "--compare: takes 2 specs, but 3 given" in text) == (2, True)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> list[Report]:
    """Those of one plan of two specs."""
    folder = tmp_path_factory.mktemp("both")
    named = {"first": FIRST, "second": SECOND}
    specs = [planned(folder / name, changes).specs[0] for name, changes in named.items()]
    return make_report(progress_of(folder, make_plan(specs)), paper_macs)


def flat(_trajectory: Trajectory, level: int) -> Measured:
    """The same of every trajectory, in whatever company it is planned."""
    return measured(level, 0.5)


class TestSeveralSpecs:
    def test_are_all_in_every_format(self, reports: list[Report]) -> None:
        console = Console(width=160)
        for style in ("rich", "markdown", "latex"):
            text = render(reports, style, console)
            assert "small" in text
            assert "other" in text
        assert render(reports, "latex", console).count("\\label{tab:") == 2
        found = json.loads(render(reports, "json", console))
        assert [one["experiment"] for one in found] == ["small", "other"]
        lines = csv.DictReader(io.StringIO(render(reports, "csv", console)))
        assert {line["experiment"] for line in lines} == {"small", "other"}

    def test_are_each_as_alone(self, tmp_path: Path) -> None:
        """Where one trains further what teaches in another, neither shows what it did not ask for:
        no level, no teacher, no reader."""
        teacher = spec_data()["teacher"]
        pruned = {"student": teacher, "pruning.levels": 5, "seeds": [0, 1], "experiment": "pruned"}
        taught = {"recipes": ["vanilla", "kd-pruned-teacher"], "experiment": "taught"}
        (one,) = planned(tmp_path / "1", pruned).specs
        (other,) = planned(tmp_path / "2", taught).specs
        shared = make_plan([one]).trajectories.keys() & make_plan([other]).trajectories.keys()
        assert len(shared) == 1

        def reports_of(*specs: ResolvedSpec) -> list[Report]:
            return make_report(progress_of(tmp_path, make_plan(specs), flat), paper_macs)

        together = reports_of(one, other)
        assert together == [*reports_of(one), *reports_of(other)]
        lines = [list(csv.DictReader(io.StringIO(tidy_csv([report])))) for report in together]
        assert [Counter(line["role"] for line in part) for part in lines] == [
            {"student": 2 * 6},
            {"student": 2 * 4, "teacher": 4},
        ]

    @pytest.mark.long
    def test_have_figures_of_their_own(self, reports: list[Report], tmp_path: Path) -> None:
        lines = list(save_figures(reports, tmp_path))
        names = {file.name for file in tmp_path.glob("*.svg")}
        assert len(names) == len(lines) == 6
        assert {name.split("-")[0] for name in names} == {"small", "other"}

    def test_must_have_names_of_their_own(self, tmp_path: Path) -> None:
        specs = [resolved(tmp_path / name) for name in ("a", "b")]
        with pytest.raises(InputError, match=r"experiment: small is that of .*/a/spec\.yaml too"):
            make_plan(specs)
