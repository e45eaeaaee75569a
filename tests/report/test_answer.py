"""The answer above the table: which network to deploy, what it costs, what early stop saved."""

import statistics
from pathlib import Path
from typing import Any

import pytest
from reports import TWINS, diverging, double_descent, nothing, report_of
from rich.console import Console
from scipy import stats as scipy_stats

from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.axes import axis_words, variant_words
from dsdctl.report.cells import HEADINGS, cells
from dsdctl.report.formats.text import render
from dsdctl.report.table import Report
from dsdctl.report.words import answer_lines, wrapped
from dsdctl.results import Measured

COMPARED: dict[str, Any] = {
    "student.width": 16,
    "pruning": {"fraction": 0.25, "levels": 15},
    "recipes": ["vanilla", "early-stop", "kd-dense-teacher", "kd-pruned-teacher"],
    "seeds": [0, 1, 2],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return report_of(tmp_path_factory.mktemp("report"), COMPARED)


def by_hand(report: Report) -> dict[tuple[str, int], dict[str, list[float]]]:
    """What each recipe's levels recorded over all seeds, as far as all of them came."""
    levels = {trajectory.key: trajectory.levels for trajectory in report.trajectories}
    found = {}
    for row in report.rows:
        for level in range(int(min(value or 0 for value in row.trainings.values))):
            seeds = [levels[key][level] for key in row.trajectory_keys]
            found[row.recipe, level] = {
                name: [seed[name] for seed in seeds]
                for name in ("validation_accuracy", "test_accuracy", "sparsity")
            }
    return found


def test_recommended_is_the_sparsest_network_within_a_point_of_the_best(report: Report) -> None:
    (answer,) = report.answers
    chosen, levels = answer.recommended, by_hand(report)
    assert chosen is not None
    assert answer.complete
    mean = {at: statistics.fmean(seeds["validation_accuracy"]) for at, seeds in levels.items()}
    sparsity = {at: seeds["sparsity"][0] for at, seeds in levels.items()}
    close = [at for at in levels if mean[at] >= max(mean.values()) - 0.01]
    at = chosen.recipe, chosen.level
    assert at in close
    assert sparsity[at] == max(sparsity[one] for one in close) > 0
    assert chosen.test_accuracy.values == tuple(levels[at]["test_accuracy"])
    dense = levels["vanilla", 0]["test_accuracy"]
    assert chosen.difference_to_dense is not None
    assert chosen.difference_to_dense.mean == pytest.approx(
        statistics.fmean(levels[at]["test_accuracy"]) - statistics.fmean(dense)
    )


def test_its_accuracy_has_a_t_interval(report: Report) -> None:
    chosen = report.answers[0].recommended
    assert chosen is not None
    values = chosen.test_accuracy.values
    error = scipy_stats.sem(values)
    interval = scipy_stats.t.interval(0.95, len(values) - 1, chosen.test_accuracy.mean, error)
    assert (chosen.low, chosen.high) == pytest.approx([max(interval[0], 0), min(interval[1], 1)])


def test_what_two_rows_share_is_the_cheaper_rows(tmp_path: Path) -> None:
    """Both read level 0; only one of them goes on after the first fall."""
    changes = {**COMPARED, "recipes": ["vanilla", "early-stop"]}
    (answer,) = report_of(tmp_path, changes, falling).answers
    assert answer.recommended is not None
    assert answer.recommended.recipe == "early-stop"


def falling(trajectory: Trajectory, level: int) -> Measured:
    """Each round costs two points."""
    made = double_descent(trajectory, level)
    changes = dict.fromkeys(("validation_accuracy", "test_accuracy"), 0.9 - 0.02 * level)
    return made.model_copy(update=changes)


def test_a_dense_network_is_called_dense(tmp_path: Path) -> None:
    one = report_of(tmp_path, {**COMPARED, "recipes": ["vanilla"]}, falling)
    (answer,) = one.answers
    assert answer.recommended is not None
    assert (answer.recommended.level, answer.recommended.dense) == (0, True)
    assert answer.recommended.difference_to_dense is None
    assert answer_lines(one)[0] == (
        "Recommended: the dense network of vanilla (level 0, nothing pruned), "
        "test accuracy 90.00 % [90.00, 90.00]."
    )
    assert cells(one.rows[0])[HEADINGS.index("level")] == "0 (dense)"


def test_a_level_that_is_pruned_is_not(report: Report) -> None:
    assert not any("dense)" in cell for row in report.rows for cell in cells(row))


def test_early_stop_is_compared_with_all_levels_of_the_same_trajectory(report: Report) -> None:
    saved = {one.recipe: one for one in report.answers[0].saved}
    assert saved.keys() == {row.recipe for row in report.rows if row.early_stop}
    for row in report.rows:
        if row.early_stop:
            trainings = row.trainings.mean
            assert trainings is not None and row.pflops.mean is not None
            assert saved[row.recipe].share == pytest.approx(1 - trainings / 16)
            assert saved[row.recipe].pflops == pytest.approx(
                row.pflops.mean / trainings * (16 - trainings)
            )
    assert saved["early-stop"].difference == report.rows[1].difference
    assert saved["kd-dense-teacher"].difference is None  # no row has these levels to their end


def test_what_it_saved_is_said_in_words(report: Report) -> None:
    row = report.rows[1]
    assert row.trainings.mean is not None and row.difference is not None
    share, points = 100 * (1 - row.trainings.mean / 16), -100 * row.difference.mean
    assert (
        f"Early stop (early-stop) saved {share:.0f} % of the training PFLOPs for {points:.1f} "
        "points of test accuracy, against vanilla."
    ) in answer_lines(report)


def test_a_rule_that_never_stopped_saved_nothing(tmp_path: Path) -> None:
    lines = answer_lines(report_of(tmp_path, {"recipes": ["vanilla", "entropy-early-stop"]}))
    assert "Early stop (entropy-early-stop) never stopped: all 4 levels were trained." in lines


def test_a_rows_total_has_the_teachers_trainings(report: Report) -> None:
    for row in report.rows:
        assert row.pflops.mean is not None
        assert row.total_pflops == pytest.approx(row.pflops.mean + (row.teacher_pflops or 0))
    *_, cost = answer_lines(report)
    assert "of them its teacher's" in cost


def test_wall_time_is_of_the_levels_up_to_the_stop(report: Report) -> None:
    """Each made-up level took a second."""
    for row in report.rows:
        assert row.wall_seconds.values == row.trainings.values
    teachers = [row.teacher_wall_seconds for row in report.rows]
    assert teachers == [None, None, 1, 16]


def test_nothing_is_recommended_before_a_row_is_finished(tmp_path: Path) -> None:
    empty = report_of(tmp_path / "1", COMPARED, nothing)
    assert (empty.answers[0].recommended, empty.answers[0].complete) == (None, False)
    assert answer_lines(empty) == []

    def undistilled(trajectory: Trajectory, level: int) -> Measured | None:
        return None if trajectory.teacher else double_descent(trajectory, level)

    half = report_of(tmp_path / "2", COMPARED, undistilled)
    assert answer_lines(half)[0].startswith("Recommended so far: vanilla at level ")


def test_no_level_is_recommended_that_a_seed_did_not_reach(tmp_path: Path) -> None:
    changes = {**COMPARED, "recipes": ["vanilla"]}
    (answer,) = report_of(tmp_path / "1", changes, diverging(1, at=1)).answers
    assert answer.recommended is not None
    assert answer.recommended.level == 0
    (answer,) = report_of(tmp_path / "2", changes, diverging(1, at=0)).answers
    assert answer.recommended is None


@pytest.mark.parametrize("width", [40, 80, 81, 82, 100])
def test_no_line_of_it_begins_with_a_unit(report: Report, width: int) -> None:
    for line in answer_lines(report):
        text = wrapped(line, width)
        assert " ".join(text.split()) == line
        assert max(map(len, text.splitlines())) <= width
        assert not any(part.startswith("%") for part in text.splitlines())


@pytest.mark.parametrize("style", ["rich", "markdown"])
def test_stands_above_the_table(report: Report, style: str) -> None:
    text = " ".join(render([report], style, Console(width=200)).split())
    for line in answer_lines(report):
        assert line in text
        assert text.index(line) < text.index("sparse double descent")


def test_has_a_line_a_variant(tmp_path: Path) -> None:
    one = report_of(tmp_path, TWINS["figure5"])
    lines = answer_lines(one)
    assert len(lines) == len(one.answers) == 6
    assert [line.split(": ")[0] for line in lines] == [
        f"Recommended for {data}, noise {rate} %"
        for data in ("cifar10", "cifar100")
        for rate in (10, 20, 50)
    ]
    assert all("Early stop (early-stop) saved " in line for line in lines)


@pytest.mark.parametrize(
    ("axis", "value", "words"),
    [
        ("label_noise.rate", "0.2", "noise 20 %"),
        ("label_noise.rate", "0.125", "noise 12.5 %"),
        ("label_noise.kind", "asymmetric", "asymmetric"),
        ("dataset.name", "cifar10", "cifar10"),
        ("student.depth", "3", "depth 3"),
        ("teacher.depth", "3", "teacher depth 3"),
        ("training.batch_size", "128", "batch size 128"),
        ("training.optimizer.nesterov", "True", "nesterov"),
        ("training.optimizer.nesterov", "False", "no nesterov"),
        ("training.clip_norm", "None", "no clip norm"),
        ("pruning.fraction", "0.2", "pruned per round 20 %"),
        ("training.optimizer.lr", "1e-05", "lr 1e-05"),
    ],
)
def test_values_of_a_matrix_are_said_in_words(axis: str, value: str, words: str) -> None:
    assert axis_words(axis, value) == words
    assert variant_words({"student.width": "1", axis: value}) == f"width 1, {words}"
