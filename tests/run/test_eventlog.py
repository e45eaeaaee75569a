"""The event log: every event of a run in order, one JSON object a line."""

import resource
from pathlib import Path

import pytest
from builders import measured, only_trajectory

from dsdctl.cli.live import time_left
from dsdctl.cost.throughput import images_per_second, rate_line
from dsdctl.results import Diverged, Environment, FinishedLevel
from dsdctl.run.event_log import EventLog, EventRecord, event_log, read_events

ENVIRONMENT = Environment(
    python="3", torch="2", dsdctl="0", device="cuda x", threads=1, wall_seconds=2.0,
    gpu_peak_bytes=3 * 2**30,
)  # fmt: skip


def test_an_error_or_an_interruption_ends_the_log_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"

    def interrupted() -> None:
        with event_log(file, pid=7) as events:
            events.write("failed", reason="its disk was full")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    started, failed, ended = read_events(file)
    assert (started.event, started.pid) == ("run-started", 7)
    assert (failed.event, failed.reason) == ("failed", "its disk was full")
    assert (ended.event, ended.reason) == ("run-ended", "KeyboardInterrupt")


def test_a_line_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    events = EventLog(file)
    events.write("busy")
    events.write("failed")
    file.write_text(file.read_text()[:-5])
    assert [event.event for event in read_events(file)] == ["busy"]


def test_a_full_disk_ends_the_event_log_and_nothing_else(tmp_path: Path) -> None:
    events = EventLog(tmp_path / "events.jsonl")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for _ in range(30):
            events.write("busy", reason="words " * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 1 <= len(read_events(tmp_path / "events.jsonl")) < 30


def test_every_field_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/running.md").read_text()
    assert [name for name in EventRecord.model_fields if f"`{name}`" not in text] == []


def test_a_levels_speed_is_its_training_images_over_its_time(tmp_path: Path) -> None:
    trajectory = only_trajectory(tmp_path)
    level = FinishedLevel(key="k", result=measured(0, 0.5), environment=ENVIRONMENT)
    # 862 training images, 4 epochs, 2 seconds.
    assert images_per_second(trajectory, level) == 862 * 4 / 2
    assert rate_line(trajectory, level) == ", 1,724 images/s, 3.00 GiB of GPU memory"
    on_cpu = level.model_copy(
        update={"environment": ENVIRONMENT.model_copy(update={"gpu_peak_bytes": None})}
    )
    assert rate_line(trajectory, on_cpu) == ", 1,724 images/s"
    diverged = on_cpu.model_copy(update={"result": Diverged(level=0, epoch=1)})
    assert rate_line(trajectory, diverged) == ""


@pytest.mark.parametrize(
    ("done", "total", "seconds", "said"),
    [(1, 2, 59.6, "0:01:00"), (3, 4, 3.0, "0:00:01"), (1, 101, 100.0, "2:46:40")],
)
def test_the_time_left_is_that_of_levels_like_those_done(
    done: int, total: int, seconds: float, said: str
) -> None:
    assert time_left(done, total, seconds) == f"ETA {said} at most"
