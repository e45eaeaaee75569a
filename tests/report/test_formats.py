"""A report in each format: what fits, what programs read, and text that may be hostile."""

import io
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from builders import paper_macs, planned
from reports import (
    COMPARED,
    diverging,
    nothing,
    one_line,
    progress_of,
    report_of,
    shown,
    tidy,
)
from rich.console import Console
from tiny import ROOT

from dsdctl.report.answer import Answer, Recommended, Saved
from dsdctl.report.axes import variant_words
from dsdctl.report.cells import HEADINGS, cells, cost_unit, headings, reference_cells
from dsdctl.report.curve_summary import Curve
from dsdctl.report.formats.latex import latex, math, tex
from dsdctl.report.formats.plot import plot
from dsdctl.report.formats.text import render_brief
from dsdctl.report.notes import notes, trajectory_names
from dsdctl.report.panels import panels, sparsity_axis
from dsdctl.report.rows import ReportRow
from dsdctl.report.seeds import stats
from dsdctl.report.table import Report, TrajectoryReport, make_report


@pytest.mark.parametrize("style", ["rich", "markdown", "latex"])
def test_costs_stand_in_a_unit_in_which_they_are_numbers_to_read(
    report: Report, table1: Report, style: str
) -> None:
    """Those of small networks in TFLOPs; those of the paper stay beside the published PFLOPs."""
    assert cost_unit(table1.rows).name == "PFLOPs"
    unit = cost_unit(report.rows)
    assert unit.name != "PFLOPs"
    assert headings(unit)[4:6] == [f"student {unit.name}", f"total {unit.name}"]
    text, whole = one_line(shown(report, style)), shown(table1, style)
    for row in report.rows:
        in_pflops, shown_cell = cells(row)[4], cells(row, unit)[4]
        assert float(shown_cell) == pytest.approx(unit.per_pflop * float(in_pflops), rel=0.06)
        assert shown_cell in text
    assert unit.name in text and unit.name not in whole
    published = [line for row in table1.rows if (line := reference_cells(row))]
    assert published and all(line[4] in whole for line in published)


class TestRich:
    @pytest.mark.parametrize("width", [60, 80, 100, 120, 126, 160])
    def test_shows_every_cell_whole_at_any_width(
        self, report: Report, table1: Report, width: int
    ) -> None:
        for one in (report, table1):
            text, unit = shown(one, "rich", width), cost_unit(one.rows)
            assert "…" not in text
            assert max(map(len, text.splitlines())) <= width
            if width >= 80:
                assert all(cell in text for row in one.rows for cell in cells(row, unit)[4:7])

    def test_keeps_brackets_of_names_and_variants(self, tmp_path: Path) -> None:
        one = report_of(tmp_path, {"matrix": {"training.schedule.milestones": [[1], [1, 2]]}})
        text = shown(one, "rich")
        assert "milestones=[1, 2]" in text


class TestPlot:
    def test_fits_80_columns_and_names_the_phases(self, report: Report) -> None:
        (panel,) = panels(report)
        text = plot(panel, sparsity_axis([panel]), 80).plain
        assert max(map(len, text.splitlines()[:-1])) <= 80
        title, heading, *_ = text.splitlines()
        assert title == "mean test accuracy % against sparsity %, phases of vanilla"
        assert heading.split() == ["light", "critical", "sweet", "collapsed"]
        assert "● vanilla, early-stop" in text.replace("\u00a0", " ")

    def test_has_a_point_a_level_for_a_line_that_is_alone(self, tmp_path: Path) -> None:
        one = report_of(tmp_path, {**COMPARED, "recipes": ["vanilla"]})
        (panel,) = panels(one)
        drawn = plot(panel, sparsity_axis([panel]), 80).plain.splitlines()[2:-2]
        columns = [line.find("●") for line in drawn]
        assert sum(line.count("●") for line in drawn) == 16
        assert max(columns) < 80

    def test_draws_hundreds_of_levels_and_a_single_one(self, tmp_path: Path) -> None:
        for levels in (0, 300):
            pruning = {"fraction": 0.02, "levels": levels}
            changes = {"student.width": 32, "teacher.width": 32, "pruning": pruning}
            (panel,) = panels(report_of(tmp_path, changes))
            text = plot(panel, sparsity_axis([panel]), 80).plain
            assert "●" in text
            assert max(map(len, text.splitlines())) <= 80


COMPILE = {
    "pdflatex": ["-halt-on-error", "-interaction=nonstopmode"],
    "tectonic": ["--keep-logs"],
}


COMPILERS = [name for name in COMPILE if shutil.which(name)]


HOSTILE = "a|b <script>alert(1)</script> `x` $y^2_z$ \\cite{k} ~ 100 % & # {}"


def renamed(report: Report) -> Report:
    """The same in a variant, and with a title, that would break any format."""
    variant = {"variant": HOSTILE}
    axes = {**variant, "axes": {"student.x": HOSTILE}}
    changes = {
        "rows": tuple(row.model_copy(update=axes) for row in report.rows),
        "curves": tuple(curve.model_copy(update=variant) for curve in report.curves),
        "answers": tuple(answer.model_copy(update=axes) for answer in report.answers),
        "title": HOSTILE,
    }
    return report.model_copy(update=changes)


class TestMarkdown:
    def test_tables_have_as_many_cells_in_each_row(self, report: Report, table1: Report) -> None:
        for one in (report, table1, renamed(report)):
            blocks = re.findall(r"(?:^\|.*\|\n?)+", shown(one, "markdown"), re.M)
            assert len(blocks) == 2
            for block in blocks:
                counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
                assert len(counts) == 1
        assert counts == {6}

    def test_starts_no_markup_of_its_own(self, report: Report) -> None:
        text = shown(renamed(report), "markdown")
        assert "<script" not in text
        assert "`" not in text.replace("\\`", "")

    def test_shows_the_papers_rows_below_ours(self, table1: Report) -> None:
        lines = shown(table1, "markdown").splitlines()
        vanilla = next(number for number, line in enumerate(lines) if line.startswith("| vanilla"))
        assert lines[vanilla + 1].startswith("| *paper* |")
        assert "*74.52 ± 1.20*" in lines[vanilla + 1]


def frame(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


class TestCsv:
    def test_has_a_line_a_level_that_a_seed_ran_in_its_row(self, report: Report) -> None:
        students = [line for line in tidy(report) if line["role"] == "student"]
        keys = [(line["recipe"], line["seed"], line["level"]) for line in students]
        assert len(set(keys)) == len(keys)
        for row in report.rows:
            for seed, trainings in zip(row.seeds, row.trainings.values, strict=True):
                ran = [key for key in keys if key[:2] == (row.recipe, str(seed))]
                assert len(ran) == trainings
        assert {row.trainings.mean == 16 for row in report.rows} == {True, False}
        curve = report.curves[0]
        phases = [line["phase"] for line in students if line["recipe"] == "vanilla"][:16]
        assert phases == list(curve.phases)

    def test_marks_what_the_rows_report_and_where_they_stopped(self, report: Report) -> None:
        lines = tidy(report)
        for row in report.rows:
            own = [line for line in lines if line["recipe"] == row.recipe]
            chosen = [int(line["level"]) for line in own if line["selected"] == "True"]
            assert chosen == list(row.level.values)
            stopped = [int(line["level"]) for line in own if line["stopped"] == "True"]
            assert stopped == list(row.stopped_at.values)

    def test_has_a_teachers_levels_once_for_each_row_that_it_taught(self, report: Report) -> None:
        taught = [line for line in tidy(report) if line["role"] == "teacher"]
        assert {line["recipe"] for line in taught} == {""}
        for row in report.rows[2:]:
            own = [line for line in taught if line["taught"] == row.recipe]
            assert [int(line["level"]) for line in own] == list(range(row.teacher_trainings or 0))
            (chosen,) = [line for line in own if line["selected"] == "True"]
            assert int(chosen["level"]) == row.teacher_level

    def test_adds_up_to_the_ledger(self, report: Report) -> None:
        lines = frame(shown(report, "csv"))
        for row in report.rows:
            for column, pflops in (
                ("recipe", row.pflops.values),
                ("taught", [row.teacher_pflops]),
            ):
                own = lines[lines[column] == row.recipe]
                found = [sum(part) for _, part in own.groupby("seed").pflops]
                assert found == pytest.approx([value for value in pflops if value])
                last = own.groupby("seed").pflops_so_far.max()
                assert list(last) == pytest.approx(found)

    def test_gives_pandas_the_reports_numbers(self, report: Report, tmp_path: Path) -> None:
        lines = frame(shown(report, "csv"))
        chosen = lines[lines.selected].groupby("recipe").test_accuracy
        for row in report.rows:
            assert chosen.mean()[row.recipe] == pytest.approx(row.test_accuracy.mean)
            assert chosen.std()[row.recipe] == pytest.approx(row.test_accuracy.std)
        # Of one seed and by the best level, as the paper's protocol, the highest is the row's.
        recipes = ["vanilla", "entropy-early-stop", "kd-dense-teacher", "kd-pruned-teacher"]
        one = report_of(tmp_path, {**COMPARED, "recipes": recipes, "seeds": [0]})
        highest = frame(shown(one, "csv")).groupby("recipe").test_accuracy.max()
        assert dict(highest) == {row.recipe: row.test_accuracy.mean for row in one.rows}

    def test_has_one_type_a_column_and_a_column_an_axis(self, tmp_path: Path) -> None:
        noise = {"matrix": {"label_noise.rate": [0.2, 0.5]}, "recipes": COMPARED["recipes"]}
        lines = frame(shown(report_of(tmp_path, noise), "csv"))
        types = {name: str(column.dtype) for name, column in lines.items()}
        assert {types[name] for name in ("selected", "stopped")} == {"bool"}
        assert {types[name] for name in ("seed", "level", "total_weights")} == {"int64"}
        assert {types[name] for name in ("label_noise_rate", "pflops", "sparsity")} == {"float64"}
        assert "object" not in types.values()
        assert set(lines.label_noise_rate) == {0.2, 0.5}

    def test_has_no_column_that_pandas_uses_itself(self, report: Report) -> None:
        for column in tidy(report)[0]:
            assert not hasattr(pd.DataFrame, column) and not hasattr(pd.Series, column)

    def test_has_no_cell_that_a_spreadsheet_computes(self, tmp_path: Path) -> None:
        values = ["=1+1", "@x", "-y"]
        lines = tidy(report_of(tmp_path, {"matrix": {"dataset.root": values}}))
        assert {line["dataset_root"] for line in lines} == {"'=1+1", "'@x", "'-y"}

    def test_before_the_first_level_is_empty(self, tmp_path: Path) -> None:
        assert shown(report_of(tmp_path, make=nothing), "csv") == ""


def test_the_page_on_reports_names_every_column_and_field(report: Report) -> None:
    text = (ROOT / "docs" / "reports.md").read_text()
    csv_part, json_part = text.split("## CSV")[1].split("## JSON")
    named, documented = (set(re.findall(r"`(\w+)`", part)) for part in (csv_part, json_part))
    assert named >= set(tidy(report)[0])
    models = [Report, ReportRow, Answer, Recommended, Saved, Curve, TrajectoryReport]
    fields = {name for model in models for name in model.model_fields} - {"schema_"}
    assert documented >= fields | {"schema"}


class TestLatex:
    def test_has_a_column_of_recipes_and_a_tick_for_each_property(self, report: Report) -> None:
        text = shown(report, "latex")
        assert "\\begin{tabular}{@{}lcccrrrr@{}}" in text
        assert text.count("\\checkmark") == 1 + 2 + 3
        rows = [line for line in text.splitlines() if " & " in line]
        assert {line.count("&") for line in rows} == {7}
        assert [line.split(" & ")[0] for line in rows[2:]] == [row.recipe for row in report.rows]

    def test_has_its_numbers_in_math_mode(self) -> None:
        for cell, latex_of_it in {
            "70.46 ± 2.34": "$70.46\\,\\pm\\,2.34$",
            "70.46 (2/3)†": "$70.46$ ($2$/$3$)$^\\dagger$",
            "1.3e-05": "$1.3{\\times}10^{-5}$",
            "-0.12": "$-0.12$",
            "—": "--",
            "": "",
        }.items():
            assert math(cell) == latex_of_it

    def test_says_a_variant_in_words(self, tmp_path: Path) -> None:
        text = shown(report_of(tmp_path, {"matrix": {"label_noise.rate": [0.2, 0.5]}}), "latex")
        assert "\\emph{noise 20 \\%}" in text
        assert "label_noise" not in text and "label\\_noise" not in text

    def test_escapes_what_is_special_or_another_letter_in_its_default_encoding(self) -> None:
        assert tex("a_b & 50 % <5> x|y") == (
            "a\\_b \\& 50 \\% \\textless{}5\\textgreater{} x\\textbar{}y"
        )

    @pytest.mark.long
    @pytest.mark.skipif(not COMPILERS, reason="neither tectonic nor pdflatex is installed")
    def test_compiles_and_fits_a_column(
        self, report: Report, table1: Report, tmp_path: Path
    ) -> None:
        log = compiled(tmp_path, latex([table1, report, widened(report)]))
        assert "Overfull" not in log
        assert "Warning" not in log
        diverged = report_of(tmp_path / "1", {**COMPARED, "seeds": [0, 1]}, diverging(1, at=2))
        compiled(tmp_path, latex([renamed(diverged), report_of(tmp_path / "2", make=nothing)]))


def widened(report: Report) -> Report:
    """The same with cells that are too long for a column together."""
    long = stats([0.4583, 0.6279, 0.7975])
    changes = {"pflops": stats([0.00049] * 3), "teacher_pflops": 0.00011, "sparsity": long}
    rows = [row.model_copy(update={**changes, "test_accuracy": long}) for row in report.rows]
    return report.model_copy(update={"experiment": "wide", "rows": tuple(rows)})


def compiled(folder: Path, body: str) -> str:
    """The log of a LaTeX compiler over `body` on a page of two columns, each 85 mm wide."""
    (folder / "table.tex").write_text(
        "\\documentclass[twocolumn]{article}\n"
        "\\usepackage[textwidth=178mm,columnsep=8mm]{geometry}\n"
        "\\usepackage{booktabs,amssymb,graphicx}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    compiler, *_ = COMPILERS
    for _ in range(2):  # the second time with the references
        done = subprocess.run(
            [compiler, *COMPILE[compiler], "table.tex"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:]
    return (folder / "table.log").read_text()


def test_every_format_shows_a_report_of_nothing(tmp_path: Path) -> None:
    empty = report_of(tmp_path, make=nothing)
    for style in ("rich", "markdown", "latex", "json"):
        assert "—" in shown(empty, style) or style in ("json", "latex")
    assert len(HEADINGS) == len(cells(empty.rows[0]))


def test_trajectories_and_rows_of_a_matrix_are_named_with_their_variant(tmp_path: Path) -> None:
    changes = {"matrix": {"student.width": [4, 5]}, "recipes": ["vanilla", "kd-dense-teacher"]}
    report = report_of(tmp_path, changes)
    names = set(trajectory_names(report).values())
    students = ("vanilla", "kd-dense-teacher")
    variants = {f"{name} [student.width={width}]" for name in students for width in (4, 5)}
    assert names == {"teacher", *variants}  # which teaches both variants
    printed = shown(report, "rich")
    assert all(f"{name} " in printed for name in names)


def test_a_long_report_is_shortened_on_the_console_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsdctl.report.formats.rich.MAX_VARIANTS", 3)
    monkeypatch.setattr("dsdctl.report.shortening.MAX_ROWS", 5)
    rates = [n / 1000 for n in range(1, 31)]
    changes = {"matrix": {"training.optimizer.lr": rates}, "pruning.levels": 0}
    plan = planned(tmp_path, changes)
    (made,) = make_report(progress_of(tmp_path, plan), paper_macs)
    lines = shown(made, "rich").splitlines()
    assert sum(line.startswith("training.optimizer.lr=") for line in lines) == 3
    assert "and 27 more variants, which JSON has" in lines
    # The findings, and the trajectories' curves.
    assert [line.strip() for line in lines].count("and 25 more rows, which JSON has") == 2
    assert shown(made, "markdown").count("### training.optimizer.lr=") == 30
    (missing,) = make_report(progress_of(tmp_path, plan, nothing), paper_macs)
    (note,) = [line for line in notes(missing) if line.startswith("Incomplete: ")]
    assert note.endswith("0/1 seeds (not finished), and 10 more.")


class TestEndOfARun:
    """What `dsdctl run` ends with: the table is what a small window shows of it."""

    def ending(self, report: Report) -> list[str]:
        return render_brief([report], Console(width=80)).splitlines()

    def test_has_the_table_last_in_a_window_of_80_by_24(self, tmp_path: Path) -> None:
        changes = {"recipes": ["vanilla", "early-stop", "kd-dense-teacher", "kd-pruned-teacher"]}
        lines = self.ending(report_of(tmp_path, {**changes, "seeds": [0, 1, 2]}))
        seen = " ".join(lines[-22:])
        for name in ("accuracy %", *changes["recipes"]):
            assert name in seen
        assert "--notes" in lines[-1]
        assert not any(line.startswith(("Dip:", "Phases of", "Training PFLOPs")) for line in lines)
        assert max(map(len, lines)) <= 80

    def test_of_a_matrix_names_each_variant_once_above_its_rows(self, tmp_path: Path) -> None:
        changes = {
            "matrix": {"label_noise.rate": [0.2, 0.4], "student.width": [4, 5]},
            "recipes": ["vanilla", "early-stop", "kd-dense-teacher"],
        }
        report = report_of(tmp_path, changes)
        lines = self.ending(report)
        assert len(report.rows) == 12
        assert len(lines) < 70
        heading = max(n for n, line in enumerate(lines) if line.startswith(" recipe "))
        shown = [line.strip() for line in lines[heading:]]
        for row in report.rows:
            assert shown.count(variant_words(row.axes)) == 1
        table = "\n".join(shown)
        assert [table.count(name) for name in changes["recipes"]] == [4, 4, 4]

    def test_says_what_must_not_be_overlooked(self, tmp_path: Path) -> None:
        changes = {"warning": "made up", "deviations": ["other noise"]}
        text = one_line("\n".join(self.ending(report_of(tmp_path, changes))))
        assert "Warning: made up" in text
        assert "Not as in the paper: other noise" in text
