"""Runs of a part, runs that end early, and commands before anything was run."""

import json
import os
import signal
from pathlib import Path

import pytest
from soak import alive, ended, pieces_of, start, wait_until, workers
from tiny import TINY, Dsdctl


def test_recipe_and_seed_run_only_what_they_name(tiny: Path, dsdctl: Dsdctl) -> None:
    done = dsdctl("run", tiny, "--recipe", "vanilla", "--seed", "1", "--store", "there")
    assert done.returncode == 0, done.stderr
    assert len(list((tiny.parent / "there/levels").glob("*/*"))) == 4
    assert "early-stop" not in done.stdout
    assert "unknown" not in done.stdout


def test_an_unfinished_comparison_marks_what_is_missing(tiny: Path, dsdctl: Dsdctl) -> None:
    dsdctl("run", tiny, "--recipe", "vanilla", "--seed", "0")
    partial = dsdctl("report", tiny)
    assert partial.returncode == 0
    assert "(1/2)" in partial.stdout
    assert "Incomplete:" in partial.stdout
    report = json.loads(dsdctl("report", tiny, "--format", "json").stdout)
    rows = {row["recipe"]: row for row in report["rows"]}
    assert not report["complete"]
    assert rows["vanilla"]["test_accuracy"]["values"][1] is None
    assert rows["kd-dense-teacher"]["test_accuracy"]["mean"] is None


def test_report_and_plan_write_nothing(tiny: Path, dsdctl: Dsdctl) -> None:
    before = sorted(tiny.parent.rglob("*"))
    assert dsdctl("report", tiny).returncode == 0
    assert dsdctl("plan", tiny).returncode == 0
    assert dsdctl("plan", tiny, "--json").returncode == 0
    assert dsdctl("status", tiny).returncode == 0
    assert sorted(tiny.parent.rglob("*")) == before


def test_the_graph_is_a_digraph_from_teachers_to_students(
    tiny: Path, dsdctl: Dsdctl, tmp_path: Path
) -> None:
    assert dsdctl("plan", tiny, "--graph", "plan.dot").returncode == 0
    graph = (tmp_path / "plan.dot").read_text()
    assert graph.startswith("digraph plan {")
    assert graph.count("->") == 2 + 4  # two tables, and two students of each


@pytest.mark.long
def test_two_specs_share_their_trajectories(tiny: Path, dsdctl: Dsdctl) -> None:
    other = tiny.with_name("other.yaml")
    other.write_text(TINY.replace("experiment: tiny", "experiment: other"))
    done = dsdctl("run", tiny, other, "--recipe", "vanilla", "--seed", "0")
    assert done.returncode == 0, done.stderr
    assert len(list((tiny.parent / "dsdctl-store/levels").glob("*/*"))) == 4
    assert "other" in done.stdout


@pytest.mark.long
@pytest.mark.linux
def test_a_killed_worker_fails_its_own_level_only(tiny: Path, tmp_path: Path) -> None:
    long = TINY.replace("epochs: 2", "epochs: 100").replace("levels: 3", "levels: 0")
    tiny.write_text(long.replace("kd-dense-teacher, kd-pruned-teacher, ", ""))
    process = start(tmp_path, "run", tiny, "--jobs", "2", "--checkpoint-every", "0")
    os.kill(_worker_in_training(process.pid, tmp_path / "dsdctl-store"), signal.SIGKILL)
    done = ended(process)
    assert done.returncode == 3, done.stderr
    assert "its worker process died" in done.stderr
    assert "(1/2)" in done.stdout


def _worker_in_training(parent: int, store: Path) -> int:
    """Wait for a worker that is at a level with a checkpoint."""
    found: list[int] = []

    def in_training(pid: int) -> bool:
        return any((store / "inflight" / key).exists() for key in pieces_of(pid, store))

    wait_until(lambda: found.extend(filter(in_training, workers(parent))) or found)
    return found[0]


@pytest.mark.linux
@pytest.mark.long
def test_an_interrupted_run_says_how_to_go_on(tiny: Path, tmp_path: Path) -> None:
    tiny.write_text(TINY.replace("epochs: 2", "epochs: 100000"))
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        store = tmp_path / number.name
        process = start(tmp_path, "run", tiny, "--checkpoint-every", "0", "--store", store)
        worker = _worker_in_training(process.pid, store)
        process.send_signal(number)
        done = ended(process)
        assert done.returncode == code
        assert "re-run the command to resume" in done.stderr
        assert not alive(worker)


def test_bad_input_exits_2_with_one_message_and_writes_nothing(
    tiny: Path, dsdctl: Dsdctl, tmp_path: Path
) -> None:
    tiny.write_text(TINY.replace("width: 4", "wdth: 4"))
    for command in ("validate", "plan", "run", "report", "status"):
        done = dsdctl(command, tiny)
        assert done.returncode == 2
        assert f"{tiny}:5: student.wdth: unknown key; did you mean width?" in done.stderr
        assert done.stdout == ""
    assert [file.name for file in tmp_path.iterdir()] == ["tiny.yaml"]


def test_a_gpu_that_is_not_there_is_bad_input(tiny: Path, dsdctl: Dsdctl) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = dsdctl("run", tiny, "--device", "cuda")
    assert done.returncode == 2
    assert "--device: cuda" in done.stderr
