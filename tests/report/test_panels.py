"""What stands in one panel of a figure, and the stretched sparsity axis."""

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
from builders import write_recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import TWINS, double_descent, nothing, report_of

from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.panels import SparsityAxis, clouds, panels, sparsity_axis
from dsdctl.results import Measured

NOISY = [f"{data}, noise {rate} %" for data in ("cifar10", "cifar100") for rate in (10, 20, 50)]


@pytest.mark.parametrize(
    ("twin", "expected"),
    [
        ("figure2", {title: ["vanilla"] for title in NOISY}),
        ("figure3", {"": ["rewind", "reinit", "continue"]}),
        (
            "figure4",
            {
                "vanilla": ["depth 1", "depth 2", "depth 3"],
                "kd-dense-teacher": ["depth 1", "depth 2", "depth 3"],
                "vanilla, depth 1": ["width 16", "width 64"],
                "kd-dense-teacher, depth 1": ["width 16", "width 64"],
            },
        ),
        (
            "figure5",
            {
                title: ["vanilla, early-stop", "kd-dense-teacher", "kd-pruned-teacher"]
                for title in NOISY
            },
        ),
    ],
)
def test_the_papers_figures_follow_from_their_matrices(
    tmp_path: Path, twin: str, expected: dict[str, list[str]]
) -> None:
    shown = panels(report_of(tmp_path, TWINS[twin]))
    assert {panel.title: [line.label for line in panel.lines] for panel in shown} == expected


def test_costs_are_compared_over_networks_but_not_over_data(tmp_path: Path) -> None:
    (cloud,) = clouds(report_of(tmp_path / "4", TWINS["figure4"]))
    assert len(cloud.groups) == len(cloud.labels) == 2 * (3 + 2)
    assert [cloud.title for cloud in clouds(report_of(tmp_path / "2", TWINS["figure2"]))] == NOISY


def test_phases_are_shown_where_one_line_only_prunes(tmp_path: Path) -> None:
    (one,) = panels(report_of(tmp_path / "1", {"recipes": ["vanilla", "kd-dense-teacher"]}))
    assert one.phased is not None
    assert one.phased.recipe == "vanilla"
    (several,) = panels(report_of(tmp_path / "2", TWINS["figure3"]))
    assert several.phased is None


def test_early_stop_is_a_mark_on_vanillas_line(tmp_path: Path) -> None:
    report = report_of(
        tmp_path,
        {"recipes": ["vanilla", "early-stop"], "seeds": [0, 3], "student.width": 16,
         "pruning.levels": 12},
    )  # fmt: skip
    ((line,),) = (panel.lines for panel in panels(report))
    _, early = report.rows
    assert set(early.stop_reasons) == {"accuracy dropped"}
    mean = [
        statistics.fmean(seed[level]["validation_accuracy"] for seed in line.seeds.values())
        for level in range(line.reach)
    ]
    assert line.reported() == [mean.index(max(mean))]
    assert line.stopped() == [statistics.median_low(map(int, early.stopped_at.values))]


def test_a_row_that_reports_the_sparsest_level_close_to_the_best_is_marked_there(
    tmp_path: Path,
) -> None:
    write_recipe(tmp_path, "close", select={"sparsest_within": 0.05})
    report = report_of(
        tmp_path,
        {"recipes": ["close"], "seeds": [0, 1, 2], "student.width": 16, "pruning.levels": 15},
    )
    ((line,),) = (panel.lines for panel in panels(report))
    mean = [
        statistics.fmean(seed[level]["validation_accuracy"] for seed in line.seeds.values())
        for level in range(line.reach)
    ]
    assert line.reported() == [
        max(level for level, value in enumerate(mean) if value >= max(mean) - 0.05)
    ]


def test_a_rule_that_never_stopped_leaves_no_mark(tmp_path: Path) -> None:
    short = {"recipes": ["entropy-early-stop"], "pruning.levels": 2}
    ((line,),) = (panel.lines for panel in panels(report_of(tmp_path, short)))
    assert line.rows[0].stop_reasons == ("all levels run",)
    assert line.stopped() == []
    assert len(line.reported()) == 1


def test_a_teacher_is_shown_with_the_levels_that_taught(tmp_path: Path) -> None:
    report = report_of(tmp_path, {"recipes": ["kd-dense-teacher", "kd-pruned-teacher"]})
    (panel,) = panels(report)
    (teacher,) = panel.teachers
    best = max(teacher.levels, key=lambda level: level["validation_accuracy"])["level"]
    assert teacher.taught == {0, best}


def test_a_teacher_that_is_a_line_is_not_drawn_twice(tmp_path: Path) -> None:
    same = {"arch": "vgg-like", "depth": 2, "width": 4, "pool": 2}
    report = report_of(tmp_path, {"recipes": ["vanilla", "kd-pruned-teacher"], "teacher": same})
    assert next(t.roles for t in report.trajectories) == ("student", "teacher")
    (panel,) = panels(report)
    assert panel.teachers == ()


def test_seeds_that_have_not_begun_are_left_out(tmp_path: Path) -> None:
    def make(trajectory: Trajectory, level: int) -> Measured | None:
        reached = {0: 4, 1: 2, 2: 0}[trajectory.seed]
        return double_descent(trajectory, level) if level < reached else None

    (panel,) = panels(report_of(tmp_path, {"seeds": [0, 1, 2]}, make))
    (line,) = panel.lines
    assert {seed: len(levels) for seed, levels in line.seeds.items()} == {0: 4, 1: 2}
    assert line.reach == 2


def test_nothing_measured_gives_no_panels(tmp_path: Path) -> None:
    report = report_of(tmp_path, make=nothing)
    assert panels(report) == []
    assert sparsity_axis([]).ticks(5) == [0]


def pruned(fraction: float, levels: int) -> list[dict[str, Any]]:
    return [{"level": k, "sparsity": 1 - (1 - fraction) ** k} for k in range(levels)]


@settings(deadline=None, max_examples=100)
@given(fraction=st.floats(0.05, 0.5), levels=st.integers(2, 25), other=st.floats(0.05, 0.5))
def test_the_axis_has_the_same_step_for_each_round_and_keeps_sparsities_in_place(
    fraction: float, levels: int, other: float
) -> None:
    both = [pruned(fraction, levels), pruned(other, levels)]
    axis = SparsityAxis(both)
    for level in itertools.chain.from_iterable(both):
        rounds = math.log1p(-level["sparsity"]) / math.log1p(-max(fraction, other))
        assert axis.position(level) == pytest.approx(rounds, abs=1e-6)
        assert 0 <= axis.position(level) <= axis.end + 1e-6
    assert axis.end == levels - 1


def test_phases_stay_beside_their_levels_where_a_teacher_is_pruned_faster(tmp_path: Path) -> None:
    changes = {
        "student.width": 16,
        "teacher": {"arch": "vgg-like", "depth": 2, "width": 64, "pruning": {"fraction": 0.5}},
        "pruning.levels": 12,
        "recipes": ["vanilla", "kd-pruned-teacher"],
    }
    (panel,) = panels(report_of(tmp_path, changes))
    axis = sparsity_axis([panel])
    assert panel.phased is not None
    at = [axis.position(level) for level in panel.lines[0].seeds[0]]
    assert at[-1] < 5
    assert axis.end == 12
    for first, last in ((0, 3), (4, 9), (10, 12)):
        left, right = axis.extent(panel.phased, first, last)
        assert at[first] > left >= (at[first - 1] if first else -0.5)
        assert at[last] < right <= (at[last + 1] if last < 12 else at[last] + 0.5)


def test_levels_without_pruning_stand_at_their_number() -> None:
    control = [{"level": k, "sparsity": 0.0} for k in range(4)]
    for axis in (SparsityAxis([control]), SparsityAxis([control, pruned(0.2, 6)])):
        assert [axis.position(level) for level in control] == [0, 1, 2, 3]
    assert not SparsityAxis([control]).pruned
    assert SparsityAxis([control]).label(3) == "3"


def test_listed_sparsities_are_equal_steps_too(tmp_path: Path) -> None:
    pruning = {"sparsities": [0.5, 0.9, 0.95]}
    (panel,) = panels(report_of(tmp_path, {"student.width": 16, "pruning": pruning}))
    axis = sparsity_axis([panel])
    assert [axis.position(level) for level in panel.lines[0].seeds[0]] == [0, 1, 2, 3]
    assert [axis.label(k) for k in axis.ticks(4)] == ["0", "50", "90", "95"]


def test_labels_are_percentages_to_two_digits_or_two_of_the_density() -> None:
    axis = SparsityAxis([pruned(0.2, 30)])
    assert [axis.label(k) for k in (0, 1, 5, 10, 15, 20, 25, 29)] == [
        "0", "20", "67.23", "89.26", "96.48", "98.85", "99.62", "99.85",
    ]  # fmt: skip


def test_a_label_is_not_rounded_to_another_sparsity() -> None:
    axis = SparsityAxis([pruned(0.5, 14)])
    labels = [axis.label(k) for k in range(14)]
    assert labels[:5] == ["0", "50", "75", "87.5", "93.75"]
    assert labels[-1] == "99.988"


@settings(deadline=None, max_examples=100)
@given(levels=st.integers(1, 501), most=st.integers(2, 9))
def test_ticks_are_few_and_evenly_spaced_from_level_0(levels: int, most: int) -> None:
    ticks = SparsityAxis([pruned(0.01, levels)]).ticks(most)
    assert ticks[0] == 0
    assert ticks[-1] < levels
    assert len(ticks) <= most
    steps = [after - before for before, after in itertools.pairwise(ticks)]
    assert len(set(steps[:-1])) <= 1
    if len(steps) > 1:
        assert steps[-1] >= 0.75 * steps[0]
