"""The W&B mirror: offline files are read back; no failure of a tracker fails a run."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY, Dsdctl
from wandb_file import read_run
from wandb_server import Server

from dsdctl.cost.ledger import fvcore_macs
from dsdctl.plan.plan import make_plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.resolve import resolve
from dsdctl.report.ledger import make_ledger
from dsdctl.report.table import make_report
from dsdctl.spec.experiment import Wandb
from dsdctl.store.store import Store
from dsdctl.tracking.messages import RunInfo
from dsdctl.tracking.mirror import Mirror
from dsdctl.tracking.mode import effective_mode

TRACKED = (
    TINY
    + "tracking: {wandb: {project: pruning-tests, mode: offline, tags: [ci], networks: true}}\n"
)


def _offline_runs(store: Path) -> dict[str, dict]:
    runs = [read_run(file) for file in store.glob("wandb/wandb/offline-run-*/*.wandb")]
    return {run["name"]: run for run in runs}


@pytest.mark.long
def test_an_offline_run_holds_every_trajectory_and_the_comparison(
    tiny: Path, dsdctl: Dsdctl, tmp_path: Path
) -> None:
    tiny.write_text(TRACKED)
    options = ("--recipe", "vanilla", "--recipe", "kd-dense-teacher", "--seed", "0")
    done = dsdctl("run", tiny, *options)
    assert done.returncode == 0, done.stderr
    assert "W&B: offline" in done.stderr
    assert "wandb:" not in done.stderr  # the client's own words
    store = tmp_path / "dsdctl-store"
    runs = _offline_runs(store)
    assert set(runs) == {
        "vanilla seed 0",
        "teacher seed 0",
        "kd-dense-teacher seed 0",
        "comparison",
    }
    for run in runs.values():
        assert (run["project"], run["group"], run["exit"]) == ("pruning-tests", "tiny", 0)
    report = json.loads(dsdctl("report", tiny, *options, "--format", "json").stdout)
    stored = next(t for t in report["trajectories"] if t["used_by"] == ["vanilla"])
    history = runs["vanilla seed 0"]["history"]
    assert [row["level"] for row in history] == [0, 1, 2, 3]
    for row, level in zip(history, stored["levels"], strict=True):
        for name in ("test_accuracy", "sparsity", "entropy_bits", "nonzero_weights"):
            assert row[name] == level[name]
    assert runs["vanilla seed 0"]["config"]["trajectory"] == stored["key"]
    assert runs["vanilla seed 0"]["tags"] == ["ci"]
    _check_attached(store, runs["comparison"], report)
    plan = make_plan([resolve(tiny)], recipes=("vanilla", "kd-dense-teacher"), seeds=(0,))
    progress = Progress(plan, Store(store))
    ledger = make_ledger(progress, make_report(progress, fvcore_macs), fvcore_macs)
    executed = _tables(store)["executed"]
    assert sum(line[4] for line in executed) == pytest.approx(ledger.executed)

    # A replay sends what the tracker has not seen, once.
    (store / "tracking/wandb-offline.json").unlink()
    shutil.rmtree(store / "wandb")
    assert "W&B: offline" in dsdctl("report", tiny, *options, "--wandb").stderr
    assert [r["level"] for r in _offline_runs(store)["vanilla seed 0"]["history"]] == [0, 1, 2, 3]
    assert "nothing new" in dsdctl("report", tiny, *options, "--wandb").stderr

    again = dsdctl("run", tiny, *options)
    assert again.returncode == 0
    assert "W&B" not in again.stderr
    assert len(_offline_runs(store)) == 4


def _comparison(store: Path) -> Path:
    """What the run of the comparison has written."""
    return next(store.glob("wandb/wandb/offline-run-*-tiny-comparison"))


def _tables(store: Path) -> dict[str, list[list[Any]]]:
    """The tables of the comparison's run, by name."""
    return {
        file.name.split("_")[0]: json.loads(file.read_text())["data"]
        for file in _comparison(store).glob("files/media/table/*.table.json")
    }


def _check_attached(store: Path, run: dict[str, Any], report: dict[str, Any]) -> None:
    """The comparison's run holds its tables, figures, plan and the networks that rows report."""
    folder, tables = _comparison(store), _tables(store)
    assert set(tables) == {"comparison", "ledger", "executed"}
    for name in ("comparison", "ledger"):
        assert [line[0] for line in tables[name]] == ["vanilla", "kd-dense-teacher"]
    pflops = [row["pflops"]["mean"] for row in report["rows"]]
    assert [line[3] for line in tables["ledger"]] == pflops
    levels = [line[3] for line in tables["executed"] if line[2] == "level"]
    assert levels == [len(trajectory["levels"]) for trajectory in report["trajectories"]]
    images = [file.read_bytes() for file in folder.glob("files/media/images/*.png")]
    assert len(images) == 3
    assert all(image.startswith(b"\x89PNG") for image in images)
    assert json.loads((folder / "files/report.json").read_text()) == report
    plan = json.loads((folder / "files/plan.json").read_text())
    assert plan["totals"]["trainings_done"] == plan["totals"]["trainings"]
    assert len(plan["teacher_tables"]) == 1
    of_tables = [line[4] for line in tables["executed"] if line[2] == "teacher table"]
    assert of_tables == [table["pflops"] for table in plan["teacher_tables"]]
    assert set(run["files"]) >= {"plan.json", "report.json"}
    chosen = [(row["trajectory_keys"][0], row["level"]["values"][0]) for row in report["rows"]]
    levels = {trajectory["key"]: trajectory["levels"] for trajectory in report["trajectories"]}
    keys = [levels[trajectory][level]["key"] for trajectory, level in chosen]
    assert list(run["models"]) == ["tiny-0-vanilla-seed0", "tiny-1-kd-dense-teacher-seed0"]
    for key, sizes in zip(keys, run["models"].values(), strict=True):
        stored = store / "levels" / key[:2] / key
        assert sizes == {
            name: (stored / name).stat().st_size
            for name in ("weights.safetensors", "masks.safetensors")
        }


@pytest.mark.long
def test_a_trajectory_that_goes_on_continues_its_run(
    tiny: Path, dsdctl: Dsdctl, tmp_path: Path
) -> None:
    """More levels of the same trajectory later: the same run id, and no step twice."""
    options = ("--recipe", "vanilla", "--seed", "0")
    for levels in (1, 3):
        text = TRACKED.replace("networks: true", "group: g")
        tiny.write_text(text.replace("levels: 3", f"levels: {levels}"))
        done = dsdctl("run", tiny, *options)
        assert done.returncode == 0, done.stderr
    files = sorted(tmp_path.glob("dsdctl-store/wandb/wandb/offline-run-*/*.wandb"))
    runs = [run for run in map(read_run, files) if run["name"] == "vanilla seed 0"]
    assert len(runs) == 2
    assert len({run["id"] for run in runs}) == 1
    assert {run["group"] for run in runs} == {"g"}
    steps = [row["_step"] for run in runs for row in run["history"]]
    assert sorted(steps) == [0, 1, 2, 3]
    assert [model for run in runs for model in run["models"]] == []
    comparisons = [run for run in map(read_run, files) if run["name"] == "comparison"]
    steps = [row["_step"] for run in comparisons for row in run["history"]]
    assert sorted(steps) == [0, 1]


@pytest.mark.long
def test_jobs_mirror_their_levels_and_the_command_after_them_the_comparison(
    tiny: Path, dsdctl: Dsdctl, tmp_path: Path
) -> None:
    """Of many jobs at once none may send what it has seen of a comparison under one name."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    tiny.write_text(TRACKED)
    options = (tiny, "--recipe", "vanilla", "--seed", "0")
    plan = json.loads(dsdctl("plan", *options, "--json").stdout)
    job = dsdctl("run", *options, "--trajectory", plan["trajectories"][0]["key"])
    assert job.returncode == 0, job.stderr
    store = tmp_path / "dsdctl-store"
    assert set(_offline_runs(store)) == {"vanilla seed 0"}
    (tmp_path / "cluster.yaml").write_text("partition: debug\n")
    last = dsdctl("run", *options, "--engine", "slurm")
    assert last.returncode == 0, last.stderr
    assert set(_offline_runs(store)) == {"vanilla seed 0", "comparison"}


def test_a_replay_that_mirrors_nothing_says_why(tiny: Path, dsdctl: Dsdctl, tmp_path: Path) -> None:
    Store(tmp_path / "dsdctl-store").open_for_writing()
    untracked = dsdctl("report", tiny, "--wandb")
    assert (untracked.returncode, untracked.stdout) == (2, "")
    assert untracked.stderr == "--wandb: no given spec has `tracking: {wandb: ...}`\n"
    tiny.write_text(TRACKED.replace("offline", "disabled"))
    disabled = dsdctl("report", tiny, "--wandb")
    assert disabled.returncode == 0
    assert disabled.stderr == "W&B: disabled by `mode` of the spec or by $WANDB_MODE\n"


def test_online_without_a_key_says_why_it_is_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_API_KEY", "")
    Store(tmp_path).open_for_writing()
    mirror = Mirror(Wandb(project="x", mode="online"), tmp_path)
    run = RunInfo(run_id="a", experiment="e", name="n", job_type="j", config={})
    mirror.level(run, {"level": 0})
    said = mirror.finish()
    assert said.startswith(
        "W&B: offline (there is no key, `wandb login` asks for one); `wandb sync"
    )


@pytest.mark.long
def test_a_server_that_never_answers_costs_a_run_nothing(
    tiny: Path, dsdctl: Dsdctl, tmp_path: Path
) -> None:
    """The server accepts connections and says nothing; the run goes on and falls back."""
    tiny.write_text(TRACKED.replace("mode: offline", "mode: auto"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        environment = {
            **os.environ,
            "WANDB_MODE": "online",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_BASE_URL": f"http://127.0.0.1:{port}",
        }
        done = dsdctl("run", tiny, "--recipe", "vanilla", "--seed", "0", env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("W&B:") == 1
    assert len(list((tmp_path / "dsdctl-store/levels").glob("*/*"))) == 4


@pytest.mark.parametrize(
    "trouble",
    ["refusing", pytest.param("dies", marks=[pytest.mark.long, pytest.mark.timeout(300)])],
)
def test_what_a_server_did_not_take_is_sent_later_and_once(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path).open_for_writing()
    levels = [(run, level) for run in "ab" for level in range(3)]

    def mirrored(server: Server) -> str:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        mirror = Mirror(Wandb(project="x"), tmp_path)
        for run, level in levels:
            info = RunInfo(run_id=run, experiment="e", name=run, job_type="student", config={})
            mirror.level(info, {"level": level})
        return mirror.finish(150)

    with Server(**{trouble: True}) as failing:
        said = mirrored(failing)
    assert said.startswith("W&B: offline (" if trouble == "refusing" else "W&B: not all of x ")
    assert "`dsdctl report SPEC --wandb`" in said
    if trouble == "refusing":
        offline = _offline_runs(tmp_path)
        assert [(run, row["level"]) for run in "ab" for row in offline[run]["history"]] == levels
    with Server() as server:
        assert mirrored(server) == "W&B: online, project x"
        sent = dict(server.rows)
        assert sent.keys() | failing.rows.keys() == set(levels)
        assert set(sent.values()) == {1}
        assert mirrored(server) == "W&B: nothing new to mirror"
        assert server.rows == sent


@pytest.mark.long
def test_a_tracker_that_cannot_write_costs_a_run_nothing(tiny: Path, dsdctl: Dsdctl) -> None:
    tiny.write_text(TRACKED)
    store = tiny.parent / "dsdctl-store"
    store.mkdir()
    (store / "wandb").write_text("in the way")
    done = dsdctl("run", tiny, "--recipe", "vanilla", "--seed", "0")
    assert done.returncode == 0, done.stderr
    assert "the store holds everything" in done.stderr


def test_finishing_never_waits_for_a_dead_mirror(tmp_path: Path) -> None:
    mirror = Mirror(Wandb(project="x", mode="offline"), tmp_path)
    mirror._process.kill()
    mirror.level(RunInfo(run_id="a", experiment="e", name="n", job_type="j", config={}), {})
    assert "the store holds everything" in mirror.finish(5)


ENDED = """
import sys
from pathlib import Path
from dsdctl.spec.experiment import Wandb
from dsdctl.tracking.messages import ReportArtifacts
from dsdctl.tracking.mirror import Mirror
if __name__ == "__main__":
    mirror = Mirror(Wandb(project="x", mode="offline"), Path(sys.argv[1]))
    mirror._process.kill()
    mirror.attach(ReportArtifacts("e", {}, {"more than a pipe takes": bytes(1_000_000)}, {}))
"""


def test_a_run_that_is_interrupted_never_waits_for_its_mirror(tmp_path: Path) -> None:
    """It ends without `finish`, while more is to be sent than a pipe takes."""
    line = [sys.executable, "-c", ENDED, str(tmp_path)]
    subprocess.run(line, check=True, timeout=100)


@pytest.mark.parametrize(
    ("mode", "environment", "expected"),
    [
        ("auto", {}, "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "online"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, "offline"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "disabled"),
        ("online", {}, "offline"),
        ("online", {"WANDB_API_KEY": "k"}, "online"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline"),
        ("disabled", {"WANDB_API_KEY": "k"}, "disabled"),
    ],
)
def test_the_mode_follows_spec_environment_and_key(
    mode: str, environment: dict[str, str], expected: str, tmp_path: Path
) -> None:
    environment = {"NETRC": str(tmp_path / "none"), **environment}
    assert effective_mode(mode, environment) == expected


def test_a_key_in_the_netrc_file_counts(tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine api.wandb.ai login user password secret\n")
    file.chmod(0o600)
    assert effective_mode("auto", {"NETRC": str(file)}) == "online"
