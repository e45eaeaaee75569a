"""What a report says below its rows: what they share, the paper's slips, how levels were chosen."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import write_recipe
from reports import COMPARED, double_descent, one_line, report_of, shown, tidy

from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.notes import CONVENTION, notes
from dsdctl.report.table import Report
from dsdctl.results import Measured


def test_a_pruned_teacher_that_was_best_unpruned_is_said_to_be_the_dense_one(
    tmp_path: Path,
) -> None:
    def falling(trajectory: Trajectory, level: int) -> Measured:
        update = {"validation_accuracy": 0.8 - 0.01 * level}
        return double_descent(trajectory, level).model_copy(update=update)

    (tmp_path / "1").mkdir()
    changes = {"recipes": ["kd-dense-teacher", "kd-pruned-teacher"]}
    said = "Pruned teacher = dense teacher: it was level 0 that taught kd-pruned-teacher."
    assert said in notes(report_of(tmp_path, changes, falling))
    pruned = report_of(tmp_path / "1", changes)
    assert pruned.rows[1].teacher_level != 0
    assert "dense teacher" not in " ".join(notes(pruned))


class TestNotes:
    @pytest.mark.parametrize(
        ("changes", "shared"),
        [
            ({}, "one draw of the label noise and one split"),
            (
                {"recipes": ["vanilla", "kd-dense-teacher"]},
                "one draw of the label noise, one split and one teacher",
            ),
            ({"label_noise": {"rate": 0.0}}, "one split"),
            ({"dataset": {"name": "cifar10"}}, "one draw of the label noise"),
            (
                {
                    "label_noise.seed": "per-trajectory",
                    "teacher.seed": "paired",
                    "recipes": ["vanilla", "kd-dense-teacher"],
                },
                "one split",
            ),
        ],
    )
    def test_name_what_all_seeds_share(
        self, tmp_path: Path, changes: dict[str, Any], shared: str
    ) -> None:
        lines = notes(report_of(tmp_path, {"seeds": [4, 5], **changes}))
        assert "Mean ± sample standard deviation over n = 2 seeds (4, 5)." in lines
        assert f"All seeds share {shared}; the ± leaves out how much that matters." in lines

    def test_claim_no_spread_of_one_seed(self, tmp_path: Path) -> None:
        text = " ".join(notes(report_of(tmp_path)))
        assert "One seed (0): nothing is known of the spread." in text
        assert "All seeds share" not in text

    @pytest.mark.parametrize("style", ["rich", "markdown", "latex"])
    def test_put_the_convention_under_every_table_with_pflops(
        self, report: Report, style: str
    ) -> None:
        text = one_line(shown(report, style))
        assert CONVENTION in text
        assert ("Non-zero PFLOPs:" in text) == ("non-zero" in text)

    @pytest.mark.parametrize("style", ["rich", "markdown", "latex"])
    def test_say_where_the_papers_numbers_do_not_fit(self, table1: Report, style: str) -> None:
        text = one_line(shown(table1, style)).replace("\\", "")
        assert text.count("Paper, ") == 4
        assert "35.82 is 22 trainings, but 99.26 % is level 22 and takes 23." in text
        assert "29 of the ResNet-18 cost 98.28." in text

    @pytest.mark.parametrize("style", ["rich", "markdown", "latex"])
    def test_say_what_the_spec_warns_of_and_what_is_not_as_in_the_paper(
        self, tmp_path: Path, style: str
    ) -> None:
        texts = {"warning": "It diverges", "deviations": ["Half the images.", "One seed."]}
        one = report_of(tmp_path, texts)
        assert (one.warning, one.deviations) == ("It diverges", ("Half the images.", "One seed."))
        text = one_line(shown(one, style))
        for line in (
            "Warning: It diverges",
            "Not as in the paper: Half the images.",
            "Not as in the paper: One seed.",
        ):
            assert line in text
        plain = one_line(shown(report_of(tmp_path), style))
        assert "Warning" not in plain and "Not as in" not in plain

    def test_the_papers_numbers_are_as_the_notes_say(self, table1: Report) -> None:
        rows = {row.recipe: row for row in table1.rows}
        dense, pruned = rows["kd-dense-teacher"], rows["kd-pruned-teacher"]
        assert dense.teacher_pflops == pytest.approx(3.39, abs=0.005)
        assert pruned.teacher_pflops == pytest.approx(30 * 98.28 / 29, abs=0.02)
        a_training = 48.84 / 30
        assert round(35.82 / a_training, 2) == 22
        assert round(100 * (1 - 0.8**22), 2) == 99.26


def sparsest(folder: Path, name: str, within: float, **keys: Any) -> str:
    """A recipe that reports the sparsest level that is close to the best; its name."""
    write_recipe(folder, name, select={"sparsest_within": within}, **keys)
    return name


class TestSelection:
    @pytest.fixture
    def mixed(self, tmp_path: Path) -> Report:
        recipes = ["vanilla", "early-stop", sparsest(tmp_path, "a", 0.05)]
        recipes.append(sparsest(tmp_path, "b", 0.01, distill={"teacher": {"sparsest_within": 0.2}}))
        return report_of(tmp_path, {**COMPARED, "recipes": recipes})

    def test_is_of_the_sparsest_level_that_is_close_to_the_best(self, mixed: Report) -> None:
        trajectories = {trajectory.key: trajectory.levels for trajectory in mixed.trajectories}
        for row, within in zip(mixed.rows[2:], (0.05, 0.01), strict=True):
            for key, chosen, sparsity in zip(
                row.trajectory_keys, row.level.values, row.sparsity.values, strict=True
            ):
                levels = trajectories[key]
                best = max(level["validation_accuracy"] for level in levels)
                close = [k for k in levels if k["validation_accuracy"] >= best - within]
                assert chosen == close[-1]["level"]
                assert sparsity == max(level["sparsity"] for level in close)

    def test_of_a_teacher_is_by_the_same_rule(self, mixed: Report) -> None:
        *_, row = mixed.rows
        (key,) = set(row.teacher_keys)
        levels = next(t.levels for t in mixed.trajectories if t.key == key)
        best = max(level["validation_accuracy"] for level in levels)
        close = [k["level"] for k in levels if k["validation_accuracy"] >= best - 0.2]
        assert row.pruned_teacher
        assert row.teacher_level == max(close) > 0

    @pytest.mark.parametrize("style", ["rich", "markdown", "latex"])
    def test_is_said_below_every_table(self, mixed: Report, style: str) -> None:
        assert (
            "Levels were selected on the validation set: the best level (vanilla), the level "
            "where it stopped (early-stop), the sparsest level within 5 points of the best (a) "
            "and the sparsest level within 1 point of the best (b)."
        ) in one_line(shown(mixed, style))

    def test_is_with_every_row_and_level_for_programs(self, mixed: Report) -> None:
        written = json.loads(shown(mixed, "json"))
        assert [row["select"] for row in written["rows"]] == [
            "best", "stopped", {"sparsest_within": 0.05}, {"sparsest_within": 0.01},
        ]  # fmt: skip
        assert Report.model_validate_json(shown(mixed, "json")) == mixed
        by_recipe = {line["recipe"]: line["rule"] for line in tidy(mixed)}
        assert by_recipe == {
            "vanilla": "best", "early-stop": "stopped", "a": "sparsest_within=0.05",
            "b": "sparsest_within=0.01", "": "",
        }  # fmt: skip

    def test_of_the_best_alone_is_not_spelt_out(self, tmp_path: Path) -> None:
        changes = {"recipes": ["vanilla", "entropy-early-stop"]}
        assert "Levels were selected on the validation set." in notes(report_of(tmp_path, changes))

    def test_without_pruning_takes_the_first_level_that_is_close(self, tmp_path: Path) -> None:
        def rising(trajectory: Trajectory, level: int) -> Measured:
            update = {"validation_accuracy": 0.5 + 0.01 * min(level, 6)}
            return double_descent(trajectory, level).model_copy(update=update)

        recipe = sparsest(tmp_path, "mine", 0.02)
        unpruned = {"recipes": [recipe], "pruning": {"criterion": "none", "levels": 9}}
        assert report_of(tmp_path, unpruned, rising).rows[0].level.values == (4,)


class TestAChoiceThatScatters:
    @staticmethod
    def said(folder: Path, best: dict[int, int], recipe: str = "vanilla") -> list[str]:
        """What is said where each seed's best level is this one."""

        def make(trajectory: Trajectory, level: int) -> Measured:
            accuracy = 0.6 if level == best[trajectory.seed] else 0.595
            update = {"validation_accuracy": accuracy}
            return double_descent(trajectory, level).model_copy(update=update)

        changes = {**COMPARED, "recipes": [recipe], "seeds": list(best)}
        lines = notes(report_of(folder, changes, make))
        return [line for line in lines if line.startswith("Not a stable choice")]

    def test_is_called_so_and_the_rule_for_it_named(self, tmp_path: Path) -> None:
        (line,) = self.said(tmp_path, {0: 0, 1: 3, 2: 7})
        assert line == (
            "Not a stable choice: the best level scatters over the seeds with a standard deviation "
            "above 3 (vanilla 3.5). A recipe with select: {sparsest_within: 0.01} reports the "
            "sparsest level within 1 point of the best instead."
        )

    def test_is_none_up_to_a_standard_deviation_of_3(self, tmp_path: Path) -> None:
        assert self.said(tmp_path / "1", {0: 0, 1: 3, 2: 6}) == []
        assert self.said(tmp_path / "2", {0: 5, 1: 0}) != []  # 3.54, and 2.5 with ddof 0
        assert self.said(tmp_path / "3", {0: 15}) == []

    def test_is_none_of_a_row_that_is_not_the_best(self, tmp_path: Path) -> None:
        recipe = sparsest(tmp_path, "mine", 0.0)
        assert self.said(tmp_path, {0: 0, 1: 12}, recipe) == []
