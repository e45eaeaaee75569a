"""What a report says, in each format: marks, notes, differences, and text that may be hostile."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from builders import paper_macs, planned, write_recipe
from reports import (
    COMPARED,
    HERE,
    TWINS,
    diverging,
    double_descent,
    nothing,
    one_line,
    progress_of,
    report_of,
    shown,
    tidy,
)

from dsdctl.plan.plan import make_plan
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.cells import HEADINGS, cells, finding_cells
from dsdctl.report.notes import CONVENTION, notes
from dsdctl.report.panels import panels
from dsdctl.report.table import Report, make_report
from dsdctl.results import Measured

ACCURACY = HEADINGS.index("test accuracy %")


class TestRows:
    def test_are_compared_with_the_plain_one_seed_by_seed(self, report: Report) -> None:
        vanilla, *others = report.rows
        assert vanilla.difference is None
        for row in others:
            assert row.difference is not None
            pairs = zip(row.test_accuracy.values, vanilla.test_accuracy.values, strict=True)
            differences = [ours - theirs for ours, theirs in pairs if ours and theirs]
            assert row.difference.mean == pytest.approx(sum(differences) / 3)
            assert (row.difference.baseline, row.difference.n) == ("vanilla", 3)

    def test_are_compared_within_their_variant(self, tmp_path: Path) -> None:
        twin = report_of(tmp_path, TWINS["figure4"])
        by_variant = {row.variant: row for row in twin.rows if row.recipe == "vanilla"}
        for row in twin.rows:
            if row.difference is not None:
                vanilla = by_variant[row.variant].test_accuracy.mean
                assert row.test_accuracy.mean is not None and vanilla is not None
                assert row.difference.mean == pytest.approx(row.test_accuracy.mean - vanilla)

    def test_without_a_plain_recipe_are_compared_with_nothing(self, tmp_path: Path) -> None:
        alone = report_of(tmp_path, {"recipes": ["kd-dense-teacher"]})
        assert alone.rows[0].difference is None
        assert not any(line.startswith("Difference") for line in notes(alone))

    def test_report_the_phases_of_each_seeds_level(self, report: Report) -> None:
        for row, curve in zip(report.rows, report.curves, strict=True):
            levels = [int(value) for value in row.level.values if value is not None]
            inside = {curve.phases[level] for level in levels if level < len(curve.phases)}
            assert set((row.phase or "").split(", ")) == inside

    def test_ask_for_no_more_levels_than_their_spec(self, tmp_path: Path) -> None:
        """A trajectory that two specs share goes on for one of them."""
        (tmp_path / "short").mkdir()
        (tmp_path / "long").mkdir()
        short = planned(tmp_path / "short", {"pruning.levels": 2, "experiment": "short"})
        long = planned(tmp_path / "long", {"pruning.levels": 5, "experiment": "long"})
        both = make_plan([*short.specs, *long.specs])
        one, other = make_report(progress_of(tmp_path, both), paper_macs)
        assert [len(curve.levels) for curve in (*one.curves, *other.curves)] == [3, 6]
        assert len(tidy(one)) == 3
        assert [line.reach for line in panels(one)[0].lines] == [3]


def test_no_share_of_flipped_labels_is_averaged_where_a_seed_has_none(tmp_path: Path) -> None:
    """As where the noise of each seed is drawn by itself, and hits no label of the first."""

    def make(trajectory: Trajectory, level: int) -> Measured:
        update = {} if trajectory.seed else {"fitted_noisy": None, "fitted_true": None}
        return double_descent(trajectory, level).model_copy(update=update)

    noisy = {"seeds": [0, 1], "label_noise.rate": 0.2}
    (curve,) = report_of(tmp_path, noisy, make).curves
    assert (curve.mean_fitted_noisy, curve.mean_fitted_true) == (None, None)
    (curve,) = report_of(tmp_path, noisy).curves
    assert len(curve.mean_fitted_noisy or ()) == len(curve.levels) > 0


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


class TestMarks:
    def test_show_that_a_seed_diverged_and_where(self, tmp_path: Path) -> None:
        one = report_of(tmp_path, {"seeds": [0, 1]}, diverging(1, at=2))
        (row,) = one.rows
        assert row.diverged_at == (None, 2)
        assert cells(row)[ACCURACY].endswith("†")
        where = "† Diverged, and ended there: vanilla seed 1 at level 2 in epoch 3. What to try: "
        (note,) = [line for line in notes(one) if line.startswith(where)]
        assert all(key in note for key in ("schedule.warmup", "optimizer.lr", "clip_norm"))
        assert "Incomplete" not in " ".join(notes(one))

    def test_a_dip_beyond_a_diverged_seed_is_not_denied(self, tmp_path: Path) -> None:
        """The two other seeds show it, but the mean ends where the one diverged."""
        report = report_of(tmp_path, COMPARED, diverging(1, at=4))
        (vanilla, *_) = report.curves
        assert vanilla.levels == (0, 1, 2, 3)
        assert vanilla.sparse_double_descent == "unclear"
        assert vanilla.reason == "a seed diverged at level 4, where the mean ends"
        (row, *_) = report.rows
        assert cells(row)[HEADINGS.index("non-zero PFLOPs")].endswith(" (2/3)")

    def test_a_dip_that_may_come_is_not_denied(self, tmp_path: Path) -> None:
        def make(trajectory: Trajectory, level: int) -> Measured | None:
            made = double_descent(trajectory, level)
            return made.model_copy(update={"train_accuracy": 0.5}) if level < 5 else None

        for levels, verdict in ((4, "no"), (5, "unclear")):
            changes = {"pruning.levels": levels, "seeds": [0, 1]}
            (curve,) = report_of(tmp_path, changes, make).curves
            assert len(curve.levels) == 5
            assert curve.sparse_double_descent == verdict
        assert curve.reason == "levels are missing, a dip may come"

    def test_levels_that_a_seed_lacks_are_missing_and_not_few(self, tmp_path: Path) -> None:
        def make(trajectory: Trajectory, level: int) -> Measured | None:
            return double_descent(trajectory, level) if trajectory.seed else None

        report = report_of(tmp_path, {"pruning.levels": 9, "seeds": [0, 1, 2]}, make)
        assert report.curves[0].reason == "levels are missing, a dip may come"
        assert [panel.phased for panel in panels(report)] == [None]

    def test_show_that_a_seed_is_missing(self, tmp_path: Path) -> None:
        one = report_of(tmp_path, {"seeds": [0, 1, 2], "recipes": COMPARED["recipes"]}, unfinished)
        vanilla, _, distilled, _ = one.rows
        assert cells(vanilla)[ACCURACY].endswith("(2/3)")
        assert cells(distilled)[ACCURACY] == "—"
        assert any(
            line.startswith("Incomplete: vanilla 2/3 seeds (all levels run, not finished)")
            for line in notes(one)
        )

    def test_show_that_a_level_0_diverged(self, tmp_path: Path) -> None:
        one = report_of(tmp_path, {"seeds": [0, 1]}, diverging(0, at=0))
        assert cells(one.rows[0])[ACCURACY].endswith("(1/2)†")
        assert [line["kind"] for line in tidy(one)] == ["diverged", *["measured"] * 4]

    def test_show_several_environments(self, tmp_path: Path) -> None:
        progress = progress_of(tmp_path, planned(tmp_path, {"recipes": ["vanilla", "early-stop"]}))
        (known,) = progress.known.values()
        # The name of a kernel alone tells two machines apart; a store of before has none.
        for level, kernels in enumerate([(), ("a avx2",), ("a avx512", "b avx512")]):
            elsewhere = HERE.model_copy(update={"compiled_kernels": True, "kernels": kernels})
            changed = known.levels[level].model_copy(update={"environment": elsewhere})
            known.levels[level] = changed
        (one,) = make_report(progress, paper_macs)
        assert all(cells(row)[ACCURACY].endswith("‡") for row in one.rows)
        (line,) = [note for note in notes(one) if note.startswith("‡")]
        for which in ("", ", compiled kernels", ", compiled kernels (a avx2)",
                      ", compiled kernels (a avx512, b avx512)"):  # fmt: skip
            assert f"torch 2.6 on cpu, 1 thread{which} (vanilla, early-stop)" in line

    def test_are_not_set_without_a_cause(self, report: Report) -> None:
        assert not re.search("[†‡/]", " ".join(cell for row in report.rows for cell in cells(row)))


def unfinished(trajectory: Trajectory, level: int) -> Measured | None:
    return double_descent(trajectory, level) if trajectory.uses and trajectory.seed < 2 else None


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


class TestFindings:
    def test_hold_verdict_phases_and_threshold(self, report: Report) -> None:
        vanilla, _, distilled, _ = finding_cells(report)
        assert vanilla[1] == ""
        assert vanilla[2].startswith("yes: a dip of ")
        assert re.fullmatch(r"light \d+\.\d, critical \d+\.\d, sweet \d+\.\d", vanilla[3])
        assert vanilla[4] == "to 82.2"
        assert re.fullmatch(r"\+\d+\.\d\d \[\+\d+\.\d\d, \+\d+\.\d\d\]", distilled[1])

    def test_of_a_network_that_always_or_never_fits_its_labels(self, tmp_path: Path) -> None:
        always = report_of(tmp_path / "1", {"pruning.levels": 3})
        assert finding_cells(always)[0][4] == "always"
        assert "it still interpolates" not in always.curves[0].reason  # it has one seed only

        def underfit(trajectory: Trajectory, level: int) -> Measured:
            made = double_descent(trajectory, level)
            return made.model_copy(update={"train_accuracy": 0.8})

        assert finding_cells(report_of(tmp_path / "2", make=underfit))[0][4] == "never"
        assert finding_cells(report_of(tmp_path / "3", make=nothing))[0][4] == ""

    def test_a_run_that_stops_in_its_fall_is_not_said_to_have_no_dip(self, tmp_path: Path) -> None:
        stopped = report_of(tmp_path, {"seeds": [0, 1], "pruning.levels": 4})
        assert stopped.curves[0].sparse_double_descent == "unclear"
        unpruned = {"seeds": [0, 1], "pruning": {"criterion": "none", "levels": 4}}
        assert report_of(tmp_path, unpruned).curves[0].sparse_double_descent == "no"


class TestLayersWithoutEntropy:
    @staticmethod
    def emptied(trajectory: Trajectory, level: int) -> Measured:
        """From level 3 on one layer has none, of seed 1 another one at every level."""
        bits = {"features.1": 0.2, "features.4": 0.0 if level > 2 else 0.1}
        bits["features.8"] = 0.0 if trajectory.seed else 1e-9
        made = double_descent(trajectory, level)
        return made.model_copy(update={"entropy_bits_per_layer": bits})

    def test_are_named_by_seed_of_the_reported_level(self, tmp_path: Path) -> None:
        changes = {"seeds": [0, 1], "recipes": ["early-stop"], "pruning.levels": 4}
        one = report_of(tmp_path, changes, self.emptied)
        (row,) = one.rows
        assert row.level.values == (3, 2)
        assert row.removable_layers == (("features.4",), ("features.8",))
        (note,) = [note for note in notes(one) if note.startswith("No entropy left")]
        assert note.startswith(
            "No entropy left: early-stop features.4 (1 of 2 seeds), features.8 (1 of 2 seeds). "
        )
        assert "features.8 (1 of 2 seeds)" in shown(one, "markdown")

    def test_are_nothing_to_speak_of_where_there_are_none(self, tmp_path: Path) -> None:
        one = report_of(tmp_path, {"seeds": [0, 1]})
        assert all(row.removable_layers == ((), ()) for row in one.rows)
        assert not any(note.startswith("No entropy left") for note in notes(one))
        waiting = report_of(tmp_path / "none", make=nothing)
        assert waiting.rows[0].removable_layers == (None,)
