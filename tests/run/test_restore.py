"""Weights that `store gc` dropped are trained again when they are needed, with the same bytes."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from soak import dsdctl, inflight, levels, result_bytes, spec

JOBS = ("--jobs", "1")
PRUNED = ("[vanilla]", "[vanilla, kd-pruned-teacher]")
DENSE = ("[vanilla]", "[vanilla, kd-dense-teacher]")


def _write_both(folder: Path) -> None:
    """`longer` asks for more levels of the same students, and for the teacher's dense level."""
    spec(folder, PRUNED, ("levels: 1", "levels: 2"), name="first")
    spec(folder, DENSE, ("levels: 1", "levels: 3"), name="longer")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which both specs were run, and nothing was dropped."""
    folder = tmp_path_factory.mktemp("reference")
    _write_both(folder)
    done = dsdctl(folder, "run", "first.yaml", "longer.yaml", *JOBS)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(dsdctl(folder, "run", "longer.yaml", *JOBS).stdout)
    return folder


@pytest.fixture
def dropped(reference: Path, tmp_path: Path) -> Path:
    """A folder that holds what `first` computed, without the weights that `first` needs no more,
    and of its vanilla student only the first levels, none of which has any."""
    _write_both(tmp_path)
    store = tmp_path / "dsdctl-store"
    shutil.copytree(reference / "dsdctl-store", store)
    wanted = {level["key"] for t in _trajectories(reference, "first") for level in t["levels"]}
    tables = set(_tables(reference, "first"))
    for folder in [*levels(store), *store.glob("tables/??/*")]:
        if folder.name not in wanted | tables:
            shutil.rmtree(folder)
    done = dsdctl(tmp_path, "store", "gc", "--weights", "first.yaml", "--yes")
    assert done.returncode == 0
    vanilla = next(t for t in _trajectories(reference, "first") if t["used_by"] == ["vanilla"])
    folders = [_folder(store, level["key"]) for level in vanilla["levels"]]
    whole = [(folder / "weights.safetensors").exists() for folder in folders]
    for folder in folders[whole.index(True) :]:
        shutil.rmtree(folder)
    assert folders[0].exists()
    return tmp_path


def _trajectories(folder: Path, name: str) -> list[dict]:
    done = dsdctl(folder, "report", f"{name}.yaml", "--format", "json")
    return json.loads(done.stdout)["trajectories"]


def _tables(folder: Path, name: str) -> list[str]:
    plan = json.loads(dsdctl(folder, "plan", f"{name}.yaml", "--json").stdout)
    return [table["key"] for table in plan["teacher_tables"]]


def _folder(store: Path, key: str) -> Path:
    return store / "levels" / key[:2] / key


def _lacking(folder: Path, name: str) -> dict[tuple[str, ...], list[int]]:
    """The levels without weights by the roles of their trajectory."""
    store = folder / "dsdctl-store"
    return {
        tuple(trajectory["roles"]): [
            level["level"]
            for level in trajectory["levels"]
            if not (_folder(store, level["key"]) / "weights.safetensors").exists()
        ]
        for trajectory in _trajectories(folder, name)
        if trajectory["levels"]
    }


def _assert_ends_like(reference: Path, folder: Path) -> None:
    done = dsdctl(folder, "run", "longer.yaml", *JOBS)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (reference / "stdout").read_text().rstrip("\n") + "\n"
    found = result_bytes(folder / "dsdctl-store")
    expected = result_bytes(reference / "dsdctl-store")
    assert found.items() <= expected.items()
    gone = expected.keys() - found.keys()
    assert all(name.endswith("/weights.safetensors") for name in gone)
    assert dsdctl(folder, "store", "check").returncode == 0
    again = dsdctl(folder, "run", "longer.yaml", *JOBS)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.long
def test_dropped_weights_are_planned_trained_again_and_end_in_the_same_bytes(
    dropped: Path, reference: Path
) -> None:
    lacking = _lacking(dropped, "longer")
    assert lacking[("teacher",)] == [0]
    shown = json.loads(dsdctl(dropped, "plan", "longer.yaml", "--json").stdout)
    for trajectory in shown["trajectories"]:
        expected = lacking.get(tuple(trajectory["roles"]), [])
        assert trajectory["levels_to_restore"] == (expected if trajectory["levels_done"] else [])
    restored = shown["totals"]["trainings_to_restore"]
    assert restored == sum(map(len, lacking.values()))
    printed = " ".join(dsdctl(dropped, "plan", "longer.yaml").stdout.split())
    assert "first, again for their dropped weights: vanilla seed 0 level" in printed
    assert f"of these {restored} again for their dropped weights" in printed
    status = dsdctl(dropped, "status", "longer.yaml").stdout
    assert status.count("to be trained again") == 2
    _assert_ends_like(reference, dropped)
    assert _lacking(dropped, "longer")[("student",)] == []


@pytest.mark.long
@pytest.mark.parametrize("kill", ["training:2", "checkpoint-renamed", "commit-renamed"])
def test_killed_while_it_restores_it_ends_with_the_same_bytes(
    kill: str, dropped: Path, reference: Path
) -> None:
    line = ("run", "longer.yaml", *JOBS, "--checkpoint-every", "0")
    killed = dsdctl(dropped, *line, kill_at=kill)
    assert killed.returncode == 3
    assert "its worker process died" in killed.stderr
    assert inflight(dropped / "dsdctl-store")
    assert dsdctl(dropped, "store", "gc", "--yes").returncode == 0
    assert inflight(dropped / "dsdctl-store")
    _assert_ends_like(reference, dropped)


@pytest.mark.long
def test_a_level_that_comes_out_different_is_a_drift_and_changes_nothing(dropped: Path) -> None:
    """As if the level had been trained on a machine whose last digits are others."""
    store = dropped / "dsdctl-store"
    teacher = next(t for t in _trajectories(dropped, "longer") if t["roles"] == ["teacher"])
    level = _folder(store, teacher["levels"][0]["key"])
    _rewrite(level, "result.json", train_loss=1.25)
    _rewrite(level, "environment.json", torch="1.0")
    before = result_bytes(store)
    done = dsdctl(dropped, "run", "longer.yaml", *JOBS)
    assert done.returncode == 3
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: dsdctl-store")]
    assert f"{level.relative_to(dropped)}: trained again for its dropped weights" in error
    assert "result.json came out different (then torch 1.0 on cpu" in error
    assert "vanilla 0/1" not in done.stdout
    assert "kd-dense-teacher 0/1 seeds" in done.stdout
    assert before.items() <= result_bytes(store).items()
    assert not (level / "weights.safetensors").exists()


def _rewrite(level: Path, name: str, **values: object) -> None:
    """Change a file of a level, and its checksum with it."""
    file, checksums = level / name, level / "checksums.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
    content = file.read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    checksums.write_text(json.dumps({**json.loads(checksums.read_text()), name: entry}))
