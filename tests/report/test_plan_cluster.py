"""A plan on several GPUs: every missing piece once, in the plan's order, in an honest unit."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import TABLE1, measured, only_problem, paper_macs, planned, spec_data, write
from typer.testing import CliRunner

from dsdctl.cli.app import app
from dsdctl.cost import throughput
from dsdctl.cost.cluster import cluster_plan, in_levels
from dsdctl.cost.forecast import pieces_of, plan_for_cluster, seconds_estimate
from dsdctl.cost.ledger import PETA, fvcore_macs, level_pflops_executed, table_pflops
from dsdctl.cost.makespan import Piece, critical_path, list_schedule, total_cost
from dsdctl.cost.remaining import levels_to_run, missing_rewind_checkpoints
from dsdctl.cost.throughput import RunTimings, workload
from dsdctl.plan.plan import make_plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.resolve import resolve
from dsdctl.report.plan.summary import summarize
from dsdctl.results import Diverged, Environment, FinishedLevel, LevelResult
from dsdctl.store.store import Store

PAIR = ["vanilla", "kd-dense-teacher", "kd-pruned-teacher"]


def progress_of(folder: Path, changes: dict[str, Any]) -> Progress:
    return Progress(planned(folder, changes), Store(folder / "store"))


def in_pflops(_workload: str, pflops: float) -> float:
    return pflops


@pytest.mark.parametrize(
    "changes",
    [
        {"recipes": PAIR, "seeds": [0, 1]},
        {"recipes": ["vanilla"], "pruning.retrain": {"mode": "rewind", "epoch": 2}},
        {"recipes": PAIR, "pruning.retrain": {"mode": "rewind", "iteration": 3}, "seeds": [0, 1]},
        {"recipes": ["vanilla"], "matrix": {"pruning.fraction": [0.2, 0.5]}},
        {"recipes": PAIR, "teacher.seed": "paired", "seeds": [0, 1]},
    ],
)
def test_the_pieces_are_the_work_of_the_plan_each_once(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    progress = progress_of(tmp_path, changes)
    pieces = pieces_of(progress, fvcore_macs, in_pflops)
    levels = [piece for piece in pieces if piece.name.endswith(" level")]
    assert len(levels) == sum(levels_to_run(progress).values())
    tables = [piece for piece in pieces if piece.name == "cached teacher logits"]
    summary = summarize(progress, fvcore_macs)
    assert len(tables) == len(summary.teacher_tables)
    states = [piece for piece in pieces if piece.name == "rewind checkpoint"]
    assert len(states) == len(missing_rewind_checkpoints(progress))
    assert len(pieces) == len(levels) + len(tables) + len(states)
    assert total_cost(pieces) == pytest.approx(summary.totals.pflops_to_run)
    assert all(before < number for number, piece in enumerate(pieces) for before in piece.after)


def test_table_1_waits_for_all_levels_of_the_teacher_and_its_table(tmp_path: Path) -> None:
    plan = make_plan([resolve(TABLE1)])
    progress = Progress(plan, Store(tmp_path))
    pieces = pieces_of(progress, paper_macs, in_pflops)
    student = next(t for t in plan.trajectories.values() if t.teacher is not None)
    assert student.teacher is not None
    teacher = plan.trajectories[student.teacher.trajectory or ""]
    longest = 30 * level_pflops_executed(teacher, paper_macs)
    longest += 30 * level_pflops_executed(student, paper_macs)
    longest += table_pflops(student.setup, paper_macs(teacher.setup))
    assert total_cost(critical_path(pieces)) == pytest.approx(longest)
    assert list_schedule(pieces, 100) == pytest.approx(longest)
    assert [piece.name for piece in critical_path(pieces)] == [
        *["teacher seed 0 level"] * 30,
        "cached teacher logits",
        *["kd-pruned-teacher seed 0 level"] * 30,
    ]  # fmt: skip


def test_a_cluster_of_one_does_all_work_one_after_the_other() -> None:
    cluster = cluster_plan([Piece("a", 3600.0), Piece("b", 1800.0)], 4, "seconds", "said")
    assert [(entry.gpus, entry.makespan) for entry in cluster.by_gpus] == [
        (1, 5400.0), (2, 3600.0), (4, 3600.0),
    ]  # fmt: skip
    assert [entry.gpu_hours for entry in cluster.by_gpus] == [1.5, 2.0, 4.0]
    assert [entry.busy for entry in cluster.by_gpus] == [1.0, 0.75, 0.375]
    assert (cluster.gpus_that_help, cluster.work) == (2, 5400.0)


def test_without_a_rate_costs_are_in_levels_of_the_student(tmp_path: Path) -> None:
    progress = progress_of(tmp_path, {"recipes": ["vanilla"], "seeds": [0, 1, 2]})
    price, words = in_levels(progress.plan, fvcore_macs)
    pieces = pieces_of(progress, fvcore_macs, price)
    assert {piece.cost for piece in pieces} == {1.0}
    assert "vanilla seed 0" in words
    assert list_schedule(pieces, 3) == 4.0


def run_plan(folder: Path, *options: str, changes: dict[str, Any] | None = None) -> str:
    file = write(folder / "spec.yaml", spec_data(changes or {"recipes": PAIR}))
    line = ["plan", str(file), "--store", str(folder / "store"), *options]
    result = CliRunner().invoke(app, line, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_images_per_second_are_those_of_the_first_rows_student(tmp_path: Path) -> None:
    text = run_plan(tmp_path, "--gpus", "2", "--images-per-second", "862", "--json")
    cluster = json.loads(text)["cluster"]
    assert cluster["unit"] == "seconds"
    # 862 training images, 4 epochs, then each of the 1797 images is measured, forward only.
    level = 4 + 1797 / 862 / 3
    vanilla = run_plan(
        tmp_path, "--gpus", "1", "--images-per-second", "862", "--json", "--recipe", "vanilla"
    )
    assert json.loads(vanilla)["cluster"]["work"] == pytest.approx(4 * level)
    assert cluster["work"] > 12 * level


def test_the_printed_plan_says_where_more_stop_helping_and_in_which_unit(tmp_path: Path) -> None:
    text = run_plan(tmp_path, "--gpus", "4")
    assert "on 4 GPUs" in text
    assert "more do not help    from 2 on" in text
    assert "GPU-hours           unknown" in text
    assert "1 level is one of vanilla seed 0" in text


def test_a_rate_without_gpus_is_refused(tmp_path: Path) -> None:
    progress = progress_of(tmp_path, {})
    line = only_problem(lambda: plan_for_cluster(progress, fvcore_macs, "cuda", None, 5.0))
    assert line == "--images-per-second: says nothing without --gpus"


def finished(seconds: float, result: LevelResult = measured(0, 0.5)) -> FinishedLevel:
    environment = Environment(
        python="3", torch="2", dsdctl="0", device="cpu", threads=1, wall_seconds=seconds
    )
    return FinishedLevel(key="k", result=result, environment=environment)


def test_the_estimate_is_the_schedule_at_the_rates_that_were_learnt(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.open_for_writing()
    progress = Progress(planned(tmp_path, {"recipes": ["vanilla"], "seeds": [0, 1, 2]}), store)
    assert seconds_estimate(progress, fvcore_macs, "cpu", 2) is None
    (trajectory, *_) = progress.plan.trajectories.values()
    levels = [finished(wall) for wall in (9.0, 2.0, 2.0)]
    levels += 4 * [finished(0.1, Diverged(level=0, epoch=0))]
    observed = RunTimings([(trajectory, level) for level in levels])
    observed.start_seconds = 3.0
    throughput.update_rates(store, "cpu", observed, fvcore_macs)
    # Three chains of four levels of 2 s on two processes: six levels one after the other.
    assert seconds_estimate(progress, fvcore_macs, "cpu", 2) == pytest.approx(3 + 6 * 2)
    assert seconds_estimate(progress, fvcore_macs, "cpu", 3) == pytest.approx(3 + 4 * 2)
    assert seconds_estimate(progress, fvcore_macs, "cuda", 3) is None


def test_a_workload_that_was_not_run_takes_the_nearest_rate(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.open_for_writing()
    plan = planned(tmp_path, {"recipes": PAIR})
    names = {workload(trajectory) for trajectory in plan.trajectories.values()}
    plain, taught = sorted(name for name in names if "-4-" in name)
    (teacher,) = [name for name in names if "-8-" in name]
    assert taught == f"{plain}/table"
    store.write_json(throughput.FILE, {"cpu": {plain: 2 * PETA, "other": 4 * PETA}})
    price = throughput.seconds(store, "cpu")
    assert price is not None
    assert [price(name, 12.0) for name in (plain, taught, teacher)] == [6.0, 6.0, 4.0]


def test_a_start_is_known_only_where_a_level_came_first(tmp_path: Path) -> None:
    (trajectory, *_) = planned(tmp_path).trajectories.values()
    for first, known in ((finished(0.0), True), (None, False)):
        observed = RunTimings()
        observed.begin()
        observed.add(trajectory, first)
        observed.add(trajectory, finished(0.0))
        assert (observed.start_seconds is not None) is known
