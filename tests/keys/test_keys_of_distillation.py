"""Keys of what is distilled hash the teacher, the loss and the table."""

from pathlib import Path
from typing import Any

import pytest
from builders import write_recipe
from level_keys import PARENT, TEACHER, student_of

from dsdctl.keys import TeacherIdentity, key_of
from dsdctl.plan.trajectory import Trajectory


def test_a_distilled_level_hashes_its_teacher_and_whether_a_table_is_used(tmp_path: Path) -> None:
    with_table = student_of(tmp_path, {"teacher.table": "always"})
    without = student_of(tmp_path, {"teacher.table": "never"})
    found = {
        key_of(trajectory.level_identity(0, None, distillation))
        for trajectory, distillation in (
            (with_table, None),
            (with_table, with_table.distillation(TEACHER)),
            (with_table, with_table.distillation(TeacherIdentity(level=64 * "c"))),
            (without, without.distillation(TEACHER)),
        )
    }
    assert len(found) == 4
    assert with_table.key != without.key


@pytest.mark.parametrize(
    "distill",
    [
        {"alpha": 0.5},
        {"temperature": 4},
        {"kind": "mse"},
        {"kind": "dkd"},
        {"kind": "dkd", "target_weight": 2},
        {"kind": "dkd", "nontarget_weight": 2},
    ],
    ids=str,
)
def test_a_distilled_level_hashes_the_weights_of_its_loss(
    tmp_path: Path, distill: dict[str, Any]
) -> None:
    def level_key(student: Trajectory) -> str:
        return key_of(student.level_identity(0, None, student.distillation(TEACHER)))

    folder = tmp_path / "other"
    write_recipe(folder, "mine", distill={"teacher": "dense", **distill})
    plain, changed = student_of(tmp_path, {}), student_of(folder, {"recipes": ["mine"]})
    assert plain.key != changed.key
    assert level_key(plain) != level_key(changed)


def test_how_a_teachers_level_was_chosen_is_in_no_levels_key(tmp_path: Path) -> None:
    students = []
    for rule in ("best", {"sparsest_within": 0}, {"sparsest_within": 0.01}, {"level": 3}):
        write_recipe(tmp_path, "mine", distill={"teacher": rule})
        students.append(student_of(tmp_path, {"recipes": ["mine"]}))
    assert len({student.key for student in students}) == 4
    levels = {
        key_of(student.level_identity(1, PARENT, student.distillation(TEACHER)))
        for student in students
    }
    assert len(levels) == 1


def test_a_table_hashes_the_views_that_it_holds(tmp_path: Path) -> None:
    tables = {
        key_of(student_of(tmp_path, changes).table_identity(TEACHER))
        for changes in (
            {},
            {"dataset.augment": {"flip": True}},
            {"dataset.split_seed": 1},
            {"training.precision": "bf16"},
        )
    }
    assert len(tables) == 4


def test_a_table_serves_all_students_of_one_data_set(tmp_path: Path) -> None:
    tables = {
        key_of(student_of(tmp_path, changes).table_identity(TEACHER))
        for changes in (
            {},
            {"student.width": 5},
            {"training.epochs": 5},
            {"label_noise.rate": 0.2},
            {"pruning.retrain": "rewind"},
            {"seeds": [1]},
        )
    }
    assert len(tables) == 1
