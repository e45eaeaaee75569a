"""The plan as people read it."""

from pathlib import Path

from builders import paper_macs, planned
from rich.console import Console

from dsdctl.progress import Progress
from dsdctl.report.plan_summary import summarise
from dsdctl.report.plan_view import rich_plan
from dsdctl.store import Store

DISTILLED = {"recipes": ["vanilla", "kd-dense-teacher"]}


def _shown(folder: Path, changes: dict[str, object]) -> tuple[str, list[tuple[bool | None, str]]]:
    """The plan as text with single spaces, and what its JSON says of teacher tables."""
    plan = planned(folder, {**DISTILLED, **changes})
    progress = Progress(plan, Store(folder / "store", read_only=True))
    summary = summarise(progress, paper_macs, None, 1)
    console = Console(width=300)
    with console.capture() as capture:
        console.print(rich_plan(progress, summary, paper_macs, "cpu", 1))
    tables = [(t.teacher_table, t.teacher_table_reason or "") for t in summary.trajectories]
    return " ".join(capture.get().split()), tables


def test_a_teacher_that_is_called_directly_is_named_and_the_reason_given(tmp_path: Path) -> None:
    text, tables = _shown(
        tmp_path, {"dataset.augment": {"flip": True, "crop": 4}, "pruning.levels": 0}
    )
    why = "162 views an image are more than the 4 calls it would save"
    assert f"teacher of kd-dense-teacher is called for every batch, without a table: {why}." in text
    assert tables == [(None, ""), (None, ""), (False, why)]


def test_a_teacher_table_has_its_reason_in_the_json_alone(tmp_path: Path) -> None:
    text, tables = _shown(tmp_path, {})
    assert "is called for every batch" not in text.replace("if the teacher were", "")
    assert tables[-1] == (True, "1 views an image instead of 16 calls")
