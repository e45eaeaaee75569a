"""Rows of specs of one recipe."""

from pathlib import Path
from typing import Any

from builders import resolved

from dsdctl.plan.rows import Row, TeacherSource

DENSE = {"recipes": ["kd-dense-teacher"]}
BEST = {"recipes": ["kd-pruned-teacher"]}


def only_row(folder: Path, changes: dict[str, Any]) -> Row:
    (row,) = resolved(folder, changes).rows
    return row


def teacher_source(folder: Path, changes: dict[str, Any]) -> TeacherSource:
    found = only_row(folder, changes).teacher_source
    assert found is not None
    return found
