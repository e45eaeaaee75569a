"""What a report says of each row: differences, marks and findings."""

import re
from pathlib import Path

import pytest
from builders import paper_macs, planned
from reports import (
    COMPARED,
    HERE,
    TWINS,
    diverging,
    double_descent,
    nothing,
    progress_of,
    report_of,
    shown,
    tidy,
)

from dsdctl.plan.plan import make_plan
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.cells import HEADINGS, cells, finding_cells
from dsdctl.report.notes import notes
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
