"""Keys of what a spec with changes plans."""

from pathlib import Path
from typing import Any

from builders import only_trajectory, planned, write_recipe

from dsdctl.keys import LevelIdentity, TeacherIdentity, key_of
from dsdctl.plan.trajectory import Trajectory

PARENT = 64 * "a"
TEACHER = TeacherIdentity(level=64 * "b")


def level_0(trajectory: Trajectory) -> LevelIdentity:
    return trajectory.level_identity(0, None, None)


def level_1(trajectory: Trajectory) -> LevelIdentity:
    return trajectory.level_identity(1, PARENT, None)


def keys(folder: Path, changes: dict[str, Any]) -> tuple[str, str, str]:
    """The keys of level 0, of level 1 after a fixed parent, and of the trajectory."""
    write_recipe(folder, "sparsest", select={"sparsest_within": 0.01})
    trajectory = only_trajectory(folder, changes)
    return key_of(level_0(trajectory)), key_of(level_1(trajectory)), trajectory.key


def student_of(folder: Path, changes: dict[str, Any]) -> Trajectory:
    plan = planned(folder, {"recipes": ["kd-dense-teacher"], **changes})
    return plan.trajectories[plan.rows[0].students[0]]
