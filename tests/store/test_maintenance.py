"""`store list`, `store check`, `store gc` and `doctor` keep a store in order and results safe."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import planned, write_recipe
from reports import double_descent, progress_of
from soak import dsdctl, levels, result_bytes, spec

from dsdctl.plan.next_work import unneeded_weights
from dsdctl.results import Environment
from dsdctl.store import maintenance
from dsdctl.store.checkpoints import Checkpoint
from dsdctl.store.folders import checksum_of, read_checksums, write_checksums
from dsdctl.store.store import Store


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec and its finished store: trajectories of 4 levels, one a teacher."""
    folder = tmp_path_factory.mktemp("finished")
    spec(
        folder,
        ("levels: 1", "levels: 3"),
        ("[vanilla]", "[vanilla, early-stop, kd-pruned-teacher]"),
    )
    done = dsdctl(folder, "run", "small.yaml", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def _flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


LEVEL_FILES = (
    "identity.json",
    "result.json",
    "environment.json",
    "epochs.jsonl",
    "weights.safetensors",
    "masks.safetensors",
)
TABLE_FILES = ("identity.json", "environment.json", "logits.safetensors")


def test_every_kind_of_damage_in_every_file_is_found_and_named(folder: Path) -> None:
    """All kinds of damage on one store, so that one process finds them all."""
    store = folder / "dsdctl-store"
    damaged: list[Path] = []
    kinds: tuple[Callable[[Path], None], ...] = (_flip_a_bit, _truncate, _empty, Path.unlink)
    for kind, level in zip(kinds, levels(store), strict=False):
        damaged += [level / name for name in LEVEL_FILES]
        for name in LEVEL_FILES:
            kind(level / name)
    table = next(iter(store.glob("tables/??/*")))
    damaged += [table / name for name in TABLE_FILES]
    for name in TABLE_FILES:
        _flip_a_bit(table / name)
    for kind, level in zip(kinds[2:], levels(store)[len(kinds) :], strict=False):
        kind(level / "checksums.json")
        damaged.append(level / "checksums.json")
    here = Environment(python="3", torch="2", dsdctl="0", device="cpu", threads=1, wall_seconds=1.0)
    for key in "01":
        Store(store).checkpoints.save(64 * key, Checkpoint([], {}, here))
    damaged.append(store / "inflight" / (64 * "1"))
    _flip_a_bit(damaged[-1])
    before = result_bytes(store)

    checked = dsdctl(folder, "store", "check")
    assert checked.returncode == 3
    for file in damaged:
        assert f"{file.relative_to(folder)}: " in checked.stdout
    assert len(checked.stdout.splitlines()) == len(damaged)
    examined = dsdctl(folder, "doctor")
    assert examined.returncode == 3
    for file in damaged:
        assert f"BAD  {file.relative_to(folder)}: " in examined.stdout
    listed = dsdctl(folder, "store", "list")
    assert listed.returncode == 0
    assert "DAMAGED" in listed.stdout
    assert result_bytes(store) == before


def test_a_whole_store_is_listed_and_found_whole(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    store = finished / "dsdctl-store"
    checked = dsdctl(finished, "store", "check")
    assert (checked.returncode, checked.stdout) == (0, "")
    folders = len(levels(store)) + 1
    assert f"{folders} folders checked, 0 problems" in checked.stderr
    listed = dsdctl(finished, "store", "list")
    assert len(listed_keys(listed.stdout)) == folders
    assert listed.stdout.count("cached teacher logits") == 1
    assert "seed 0, distilled, level 1" in listed.stdout
    examined = dsdctl(finished, "doctor")
    assert examined.returncode == 0, examined.stdout
    assert "BAD" not in examined.stdout


def listed_keys(table: str) -> list[str]:
    """The keys in a table of `store list`, as it shows them."""
    assert re.search(r"^ *key +finished +size +what", table, re.M)
    return re.findall(r"^ *([0-9a-f]{12})\b", table, re.M)


def test_the_newest_comes_first_and_who_uses_it_is_said(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    store = finished / "dsdctl-store"
    written = {
        folder.name[:12]: (folder / "identity.json").stat().st_mtime
        for kind in ("levels", "tables")
        for folder in store.glob(f"{kind}/??/[0-9a-f]*")
    }
    every = dsdctl(finished, "store", "list")
    assert "used by: of the specs that its runs had, those here: small.yaml" in every.stderr
    times = [written[key] for key in listed_keys(every.stdout)]
    assert times == sorted(times, reverse=True)
    assert all("small" in line for line in every.stdout.splitlines()[3:] if line.strip())

    text = (finished / "small.yaml").read_text()
    other = text.replace("experiment: small", "experiment: less").replace(
        "[vanilla, early-stop, kd-pruned-teacher]", "[vanilla]"
    )
    (finished / "less.yaml").write_text(other)
    less = dsdctl(finished, "store", "list", "less.yaml")
    assert len(listed_keys(less.stdout)) == 4
    assert all("vanilla" in line for line in less.stdout.splitlines()[3:] if line.strip())
    whole = dsdctl(finished, "store", "list", "small.yaml")
    assert sorted(listed_keys(whole.stdout)) == sorted(written)
    (finished / "less.yaml").unlink()


def test_a_level_of_older_versions_is_whole_but_read_by_nobody(folder: Path) -> None:
    """Its fields may be others by now; a store that outlives an upgrade is not damaged."""
    store = Store(folder / "dsdctl-store")
    level = levels(store.root)[0]
    identity = json.loads((level / "identity.json").read_bytes())
    identity.update(schema_version=1, numerics_version=2, pruning={"retrain": "continue"})
    content = json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()
    key = hashlib.sha256(b"LevelIdentity:" + content).hexdigest()
    older = store.root / "levels" / key[:2] / key
    older.parent.mkdir(exist_ok=True)
    level.rename(older)
    (older / "identity.json").write_bytes(content)
    checksums = read_checksums(older)
    write_checksums(older, {**checksums, "identity.json": checksum_of(content)})

    (entry,) = [entry for entry in maintenance.entries(store) if entry.key == key]
    assert maintenance.check(entry) == []
    assert (
        maintenance.describe(store, entry)
        == "level of schema 1, numerics 2: not read by this version"
    )
    (older / "identity.json").write_bytes(content[:-1] + b" ")
    assert maintenance.describe(store, entry) == "DAMAGED"
    assert [line.partition(": ")[2] for line in maintenance.check(entry)] == ["checksum mismatch"]
    write_checksums(older, {**checksums, "identity.json": checksum_of(content[:-1] + b" ")})
    assert [line.partition(": ")[2] for line in maintenance.check(entry)] == [
        "does not belong to this key"
    ]


def test_status_shows_damage_and_touches_nothing(folder: Path) -> None:
    store = folder / "dsdctl-store"
    victim = levels(store)[0] / "result.json"
    _flip_a_bit(victim)
    before = sorted(store.rglob("*"))
    shown = dsdctl(folder, "status", "small.yaml")
    assert shown.returncode == 0
    assert f"{victim.relative_to(folder)}: checksum mismatch" in shown.stderr
    assert "ready" in shown.stdout or "waiting for" in shown.stdout
    assert sorted(store.rglob("*")) == before


def test_gc_deletes_leftovers_only_with_yes_and_never_results(folder: Path) -> None:
    root = folder / "dsdctl-store"
    before = result_bytes(root)
    done = levels(root)[0].name
    store = Store(root)
    here = Environment(python="3", torch="2", dsdctl="0", device="cpu", threads=1, wall_seconds=1.0)
    store.checkpoints.save(done, Checkpoint([], {}, here))
    store.checkpoints.save("0" * 64, Checkpoint([], {}, here))
    stale, in_flight = root / "inflight" / done, root / "inflight" / ("0" * 64)
    unfinished = levels(root)[0].parent / f".{done}-1234"
    unfinished.mkdir()
    (unfinished / "weights.safetensors").write_text("half")
    table = root / "tables" / "00" / ".00-5678"
    table.mkdir(parents=True)
    written = root / "inflight" / f".{done}-9abc"
    written.write_text("half")
    jobs = root / "slurm" / ".jobs.json-def0"
    jobs.parent.mkdir()
    jobs.write_text("half")
    os.utime(jobs, (0, 0))
    leftovers = (stale, unfinished, table, written, jobs)

    said = dsdctl(folder, "store", "gc")
    assert said.returncode == 0
    assert "nothing deleted; add --yes" in said.stderr
    assert all(path.exists() for path in leftovers)
    removed = dsdctl(folder, "store", "gc", "--yes")
    assert removed.returncode == 0
    assert removed.stdout == said.stdout
    for path in leftovers:
        assert str(path.relative_to(folder)) in said.stdout
        assert not path.exists()
    assert in_flight.exists()
    assert result_bytes(root) == before


def test_gc_of_weights_keeps_what_the_next_level_the_students_and_the_rows_need(
    folder: Path,
) -> None:
    store = folder / "dsdctl-store"
    before = result_bytes(store)
    report = json.loads(dsdctl(folder, "report", "small.yaml", "--format", "json").stdout)
    needed = set()
    for trajectory in report["trajectories"]:
        needed.add(trajectory["levels"][-1]["key"])
    keys = {t["key"]: [level["key"] for level in t["levels"]] for t in report["trajectories"]}
    for row in report["rows"]:
        needed.add(keys[row["trajectory_keys"][0]][row["level"]["values"][0]])
        if row["teacher_level"] is not None:
            teacher = next(t for t in report["trajectories"] if "teacher" in t["roles"])
            needed.add(teacher["levels"][row["teacher_level"]]["key"])

    refused = dsdctl(folder, "store", "gc", "--weights", "--yes")
    assert refused.returncode == 2
    assert "--weights: name the specs" in refused.stderr
    said = dsdctl(folder, "store", "gc", "--weights", "small.yaml")
    assert result_bytes(store) == before
    removed = dsdctl(folder, "store", "gc", "--weights", "small.yaml", "--yes")
    assert removed.returncode == 0
    assert removed.stdout == said.stdout
    for level in levels(store):
        if level.name in needed:
            assert (level / "weights.safetensors").exists()
    after = result_bytes(store)
    gone = before.keys() - after.keys()
    assert gone
    assert all(name.endswith("/weights.safetensors") for name in gone)
    assert after == {name: content for name, content in before.items() if name not in gone}

    again = dsdctl(folder, "run", "small.yaml")
    assert again.returncode == 0
    assert again.stdout == (folder / "stdout").read_text()
    assert "level" not in again.stderr
    assert result_bytes(store) == after
    assert dsdctl(folder, "store", "check").returncode == 0


def test_weights_of_the_sparsest_level_that_is_close_to_the_best_are_needed(tmp_path: Path) -> None:
    """Also while levels are missing, though no other recipe wants them."""
    write_recipe(tmp_path, "mine", select={"sparsest_within": 0.003})
    plan = planned(tmp_path, {"recipes": ["mine"], "student.width": 16, "pruning.levels": 12})
    (key,) = plan.trajectories
    for ends in (6, 13):
        progress = progress_of(
            tmp_path, plan, lambda t, k, ends=ends: double_descent(t, k) if k < ends else None
        )
        levels = progress.known[key].levels
        accuracies = [level.measured.validation_accuracy for level in levels if level.measured]
        close = [k for k, a in enumerate(accuracies) if a >= max(accuracies) - 0.003]
        best, last = accuracies.index(max(accuracies)), len(levels) - 1
        assert max(close) not in (best, last)
        needed = {best, last, *(close if ends < 13 else close[-1:])}
        unneeded = [level.key for k, level in enumerate(levels) if k not in needed]
        assert unneeded_weights(progress) == unneeded


@pytest.mark.parametrize("command", ["store list", "store check", "store gc", "doctor"])
def test_care_of_what_is_no_store_is_bad_input_and_makes_none(command: str, tmp_path: Path) -> None:
    file = spec(tmp_path)
    for place, why in (
        ("nowhere", "no such folder"),
        (".", "not a store, there is no store.json in it"),
        (file.name, "not a store, there is no store.json in it"),
    ):
        done = dsdctl(tmp_path, *command.split(), "--store", place)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"--store: {place}: {why}\n"
    assert list(tmp_path.iterdir()) == [file]


def test_reading_from_where_there_is_no_store_says_so(tmp_path: Path) -> None:
    spec(tmp_path)
    for command in ("report", "status"):
        done = dsdctl(tmp_path, command, "small.yaml", "--store", "nowhere")
        assert done.returncode == 0
        assert done.stderr == "warning: nowhere: no such folder\n"
    marker = tmp_path / "other" / "store.json"
    marker.parent.mkdir()
    marker.write_text('{"format": 9}')
    for line in (("run", "small.yaml"), ("report", "small.yaml"), ("store", "list")):
        done = dsdctl(tmp_path, *line, "--store", "other")
        assert (done.returncode, done.stdout) == (2, "")
        assert "other/store.json: not that of a store of this version" in done.stderr
    assert list(marker.parent.iterdir()) == [marker]
