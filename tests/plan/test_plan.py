"""Every distinct piece of work once, and who needs it."""

from pathlib import Path
from typing import Any

import pytest
from builders import only_problem, paper_macs, planned, resolved, spec_data, write, write_recipe

from dsdctl.cost.remaining import plan_tables
from dsdctl.plan.plan import Plan, make_plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.resolve import resolve
from dsdctl.plan.trajectory import Trajectory, levels_needed
from dsdctl.spec.experiment import SparsestWithin
from dsdctl.store.store import Store

ALL = ["vanilla", "early-stop", "kd-dense-teacher", "kd-pruned-teacher"]
PAIR = ["kd-dense-teacher", "kd-pruned-teacher"]
CLOSE = {"sparsest_within": 0.01}


def teachers(plan: Plan) -> list[Trajectory]:
    return [t for t in plan.trajectories.values() if "teacher" in t.roles]


def test_recipes_that_differ_in_their_stop_rule_share_one_trajectory(tmp_path: Path) -> None:
    changes = {"recipes": ["vanilla", "early-stop", "entropy-early-stop"], "seeds": [0, 1, 2]}
    plan = planned(tmp_path, changes)
    assert [t.seed for t in plan.trajectories.values()] == [0, 1, 2]
    for trajectory in plan.trajectories.values():
        assert plan.used_by(trajectory) == changes["recipes"]
        assert [use.stop is None for use in trajectory.uses] == [True, False, False]
        assert trajectory.levels == 4
        assert trajectory.roles == ["student"]
    assert len({row.students for row in plan.rows}) == 1


def test_one_teacher_serves_all_seeds(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"recipes": ["kd-pruned-teacher"], "seeds": [0, 1, 2]})
    (teacher,) = teachers(plan)
    (row,) = plan.rows
    assert row.teachers == 3 * (teacher.key,)
    assert teacher.students == row.students
    assert (teacher.seed, teacher.roles) == (0, ["teacher"])


def test_a_teacher_has_the_seed_that_its_spec_gives(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"recipes": ["kd-pruned-teacher"], "seeds": [0, 1], "teacher.seed": 7})
    assert [teacher.seed for teacher in teachers(plan)] == [7]


def test_paired_teachers_are_one_a_seed(tmp_path: Path) -> None:
    plan = planned(
        tmp_path, {"recipes": ["kd-pruned-teacher"], "seeds": [4, 5], "teacher.seed": "paired"}
    )
    (row,) = plan.rows
    assert [plan.trajectories[key].seed for key in row.teachers if key] == [4, 5]
    assert [teacher.students for teacher in teachers(plan)] == [(key,) for key in row.students]


def test_recipes_that_differ_in_their_teachers_rule_share_the_teacher(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"recipes": PAIR, "seeds": [0, 1]})
    (teacher,) = teachers(plan)
    dense, pruned = plan.rows
    assert set(dense.students).isdisjoint(pruned.students)
    assert teacher.students == dense.students + pruned.students
    assert plan.used_by(teacher) == PAIR


def test_teachers_come_before_those_they_teach(tmp_path: Path) -> None:
    plan = planned(tmp_path, {"recipes": list(reversed(ALL)), "seeds": [0, 1, 2]})
    order = list(plan.trajectories)
    for trajectory in plan.trajectories.values():
        assert all(order.index(trajectory.key) < order.index(key) for key in trajectory.students)
    assert len(order) == 3 + 1 + 6


@pytest.mark.parametrize(
    ("rule", "levels"),
    [("dense", 1), ("best", 4), ({"level": 0}, 1), ({"level": 2}, 3), (CLOSE, 4)],
)
def test_a_teacher_is_run_as_far_as_its_rule_needs(
    tmp_path: Path, rule: object, levels: int
) -> None:
    write_recipe(tmp_path, "mine", distill={"teacher": rule})
    (teacher,) = teachers(planned(tmp_path, {"recipes": ["mine"]}))
    assert teacher.levels == levels


@pytest.mark.parametrize("recipes", [PAIR, PAIR[::-1]])
def test_a_teacher_is_run_as_far_as_the_most_demanding_rule_needs(
    tmp_path: Path, recipes: list[str]
) -> None:
    (teacher,) = teachers(planned(tmp_path, {"recipes": recipes}))
    assert teacher.levels == 4


def test_the_best_of_more_levels_is_another_teacher(tmp_path: Path) -> None:
    changes = {"recipes": ["vanilla", *PAIR], "matrix": {"teacher.pruning.levels": [3, 6]}}
    plan = planned(tmp_path, changes)
    students = [row.students for row in plan.rows]
    vanilla, dense, best = students[:3]
    assert students[3:5] == [vanilla, dense]
    assert students[5] != best
    needs = [plan.trajectories[key].teacher for (key,) in (best, students[5])]
    assert [need and need.levels for need in needs] == [4, 7]
    tables = plan_tables(Progress(plan, Store(tmp_path / "none")), paper_macs)
    assert len({table.key for table in tables.values()}) == 3


def test_the_sparsest_within_another_share_or_of_more_levels_is_another_teacher(
    tmp_path: Path,
) -> None:
    write_recipe(tmp_path, "mine", distill={"teacher": CLOSE})
    write_recipe(tmp_path, "closer", distill={"teacher": {"sparsest_within": 0.005}})
    changes = {"recipes": [*PAIR, "mine", "closer"], "matrix": {"teacher.pruning.levels": [3, 6]}}
    plan = planned(tmp_path, changes)
    students = {key for row in plan.rows for key in row.students}
    assert len(students) == 7  # the dense teacher is the same in both variants
    tables = plan_tables(Progress(plan, Store(tmp_path / "none")), paper_macs)
    assert len({table.key for table in tables.values()}) == 7


def test_levels_needed_of_a_teacher_of_ten_levels() -> None:
    rules = ("dense", 0, 5, 9, "best", SparsestWithin(**CLOSE))
    assert [levels_needed(rule, 10) for rule in rules] == [1, 1, 6, 10, 10, 10]


def test_a_teachers_own_pruning_says_how_far_it_goes(tmp_path: Path) -> None:
    changes = {"recipes": ["kd-pruned-teacher"], "teacher.pruning": {"levels": 6}}
    (teacher,) = teachers(planned(tmp_path, changes))
    assert teacher.levels == 7


def test_a_student_may_be_a_teacher_too(tmp_path: Path) -> None:
    same: dict[str, Any] = {
        "teacher": spec_data()["student"],
        "recipes": ["vanilla", "kd-dense-teacher"],
        "seeds": [0, 1],
    }
    plan = planned(tmp_path, same)
    (teacher,) = teachers(plan)
    vanilla, distilled = plan.rows
    assert teacher.key == vanilla.students[0]
    assert teacher.roles == ["student", "teacher"]
    assert teacher.levels == 4
    assert distilled.teachers == 2 * (teacher.key,)
    assert plan.used_by(teacher) == ["vanilla", "kd-dense-teacher"]
    assert len(plan.trajectories) == 4


def test_a_teacher_from_a_file_is_no_trajectory(tmp_path: Path) -> None:
    write(tmp_path / "net.st", "weights")
    write_recipe(tmp_path, "mine", distill={"teacher": {"weights": "net.st"}})
    plan = planned(tmp_path, {"recipes": ["mine"]})
    assert plan.rows[0].teachers == (None,)
    assert [t.roles for t in plan.trajectories.values()] == [["student"]]


def test_recipes_with_different_levels_share_the_longest_trajectory(tmp_path: Path) -> None:
    write_recipe(tmp_path, "short", pruning={"levels": 1})
    write_recipe(tmp_path, "long", pruning={"levels": 5})
    plan = planned(tmp_path, {"recipes": ["short", "vanilla", "long"]})
    (trajectory,) = plan.trajectories.values()
    assert trajectory.levels == 6
    assert [use.levels for use in trajectory.uses] == [2, 4, 6]


def test_recipes_that_train_otherwise_share_nothing(tmp_path: Path) -> None:
    write_recipe(tmp_path, "slow", training={"epochs": 9})
    plan = planned(tmp_path, {"recipes": ["vanilla", "slow"]})
    assert plan.rows[0].students != plan.rows[1].students


def test_specs_that_overlap_share_their_work(tmp_path: Path) -> None:
    one = resolved(tmp_path / "one", {"recipes": ALL, "seeds": [0, 1]})
    two = resolved(
        tmp_path / "two",
        {"experiment": "other", "recipes": ["kd-dense-teacher", "vanilla"], "seeds": [1, 2]},
    )
    plan = make_plan([one, two])
    # Three seeds of vanilla, three distilled from the dense teacher, two from the pruned, and it.
    assert len(plan.trajectories) == 3 + 3 + 2 + 1
    assert [row.experiment for row in plan.rows] == 4 * ["small"] + 2 * ["other"]
    shared = plan.trajectories[plan.rows[-1].students[0]]
    assert [use.experiment for use in shared.uses] == ["small", "small", "other"]
    assert shared.label == "small, other: vanilla+early-stop seed 1"
    # What an experiment calls it does not depend on what it was planned with.
    for experiment, name in (("small", "vanilla+early-stop"), ("other", "vanilla")):
        alone = plan.alone(experiment).trajectories[shared.key]
        assert alone.label == f"{name} seed 1"
    assert [t.label for t in plan.trajectories.values() if t.seed == 2] == [
        "other: kd-dense-teacher seed 2",
        "other: vanilla seed 2",
    ]


def test_variants_share_what_they_do_not_change(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        {"recipes": ["kd-dense-teacher"], "matrix": {"student.width": [4, 5]}},
    )
    (teacher,) = teachers(plan)
    assert len(plan.trajectories) == 3
    assert plan.variant(teacher) == "student.width=4; student.width=5"


def test_a_trajectory_is_named_with_what_its_variants_have_in_common(tmp_path: Path) -> None:
    matrix = {"label_noise.rate": [0.1, 0.4], "student.width": [4, 5]}
    plan = planned(tmp_path, {"recipes": ["vanilla", "kd-dense-teacher"], "matrix": matrix})
    names = [t.label for t in plan.trajectories.values()]
    cells = [f"label_noise.rate={rate}, student.width={w}" for rate in (0.1, 0.4) for w in (4, 5)]
    students = [f"{name} [{cell}]" for cell in cells for name in ("vanilla", "kd-dense-teacher")]
    # A teacher is the same for both widths, but not for other noise.
    shared = [f"teacher [label_noise.rate={rate}]" for rate in (0.1, 0.4)]
    assert sorted(names) == sorted(f"{name} seed 0" for name in students + shared)


def test_a_student_that_two_variants_share_is_named_with_what_either_says(tmp_path: Path) -> None:
    matrix = [{"student.width": [4, 5]}, {"student.width": [4], "student.depth": [1, 2]}]
    plan = planned(tmp_path, {"matrix": matrix})
    assert [t.variant for t in plan.trajectories.values()] == [
        "student.width=4, student.depth=2",
        "student.width=5",
        "student.width=4, student.depth=1",
    ]


def test_only_the_given_recipes_and_seeds_are_planned(tmp_path: Path) -> None:
    spec = resolved(tmp_path, {"recipes": ALL, "seeds": [0, 1, 2]})
    plan = make_plan([spec], recipes=["early-stop"], seeds=[2, 0])
    (row,) = plan.rows
    assert (row.row.recipe.recipe, row.seeds) == ("early-stop", (0, 2))
    assert len(plan.trajectories) == 2
    one_teacher = make_plan([spec], recipes=["kd-dense-teacher"], seeds=[1])
    assert sorted(t.seed for t in one_teacher.trajectories.values()) == [0, 1]


def test_a_filter_changes_no_key(tmp_path: Path) -> None:
    spec = resolved(tmp_path, {"recipes": ALL, "seeds": [0, 1, 2]})
    part = make_plan([spec], recipes=["kd-pruned-teacher"], seeds=[1])
    assert set(part.trajectories) < set(make_plan([spec]).trajectories)


def test_a_filter_that_names_nothing_is_an_error(tmp_path: Path) -> None:
    spec = resolved(tmp_path, {"recipes": ALL, "seeds": [0, 1]})
    assert only_problem(lambda: make_plan([spec], recipes=["vanila"])) == (
        f"--recipe: vanila is in no given spec (allowed: {', '.join(ALL)})"
    )
    assert only_problem(lambda: make_plan([spec], seeds=[1, 7])) == (
        "--seed: 7 is in no given spec (allowed: 0, 1)"
    )


def test_a_filter_must_name_something_of_any_of_the_specs(tmp_path: Path) -> None:
    one = resolved(tmp_path / "one", {"seeds": [0]})
    two = resolved(tmp_path / "two", {"experiment": "other", "seeds": [1]})
    assert [row.experiment for row in make_plan([one, two], seeds=[1]).rows] == ["other"]


def test_planning_the_same_spec_again_gives_the_same_plan(tmp_path: Path) -> None:
    file = write(tmp_path / "spec.yaml", spec_data({"recipes": ALL, "seeds": [0, 1]}))
    assert make_plan([resolve(file)]) == make_plan([resolve(file)])
