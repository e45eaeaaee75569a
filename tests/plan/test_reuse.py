"""Why work is not read from the store: the field that differs from the nearest finished level."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from builders import planned, spec_data, write
from reports import one_line
from soak import dsdctl
from stored import fill
from typer.testing import CliRunner

from dsdctl.cli.app import app
from dsdctl.cli.store_table import users
from dsdctl.keys import key_of
from dsdctl.plan.progress import Progress
from dsdctl.plan.reuse import missing
from dsdctl.store.differences import Difference, Identities, differences, distance, flat
from dsdctl.store.folders import checksum_of, read_checksums, write_checksums
from dsdctl.store.store import Store

TAUGHT = {"recipes": ["vanilla", "kd-dense-teacher", "kd-pruned-teacher"]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with all levels of the small spec with its teachers."""
    folder = tmp_path_factory.mktemp("reuse")
    fill(folder / "store", planned(folder, TAUGHT))
    return folder / "store"


def why(folder: Path, store: Path, changes: dict[str, Any]) -> dict[str, list[Difference]]:
    """What differs, by the name of the trajectory and its level."""
    progress = Progress(planned(folder, TAUGHT | changes), Store(store))
    found = list(missing(progress))
    return {f"{one.trajectory.name} {one.level}": list(one.differences) for one in found}


def test_nothing_is_missing_of_what_was_run(tmp_path: Path, store: Path) -> None:
    assert why(tmp_path, store, {"title": "Another title"}) == {}


@pytest.mark.parametrize(
    ("changes", "level", "field", "here", "there"),
    [
        ({"training.optimizer.lr": 0.2}, 0, "training.optimizer.lr", "0.2", "0.1"),
        ({"training.epochs": 5}, 0, "training.epochs", "5", "4"),
        ({"student.width": 5}, 0, "network.width", "5", "4"),
        ({"seeds": [1]}, 0, "seed", "1", "0"),
        ({"label_noise.rate": 0.3}, 0, "noise.rate", "0.3", "0.4"),
        ({"dataset.split_seed": 3}, 0, "images.split_seed", "3", "0"),
        ({"training.label_smoothing": 0.1}, 0, "training.label_smoothing", "0.1", "absent"),
        ({"pruning.fraction": 0.3}, 1, "pruning.fraction", "0.3", "0.2"),
        ({"pruning.retrain": "reinit"}, 1, "pruning.retrain.mode", '"reinit"', '"continue"'),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_the_field_that_was_changed_is_named(
    tmp_path: Path,
    store: Path,
    changes: dict[str, Any],
    level: int,
    field: str,
    here: str,
    there: str,
) -> None:
    found = why(tmp_path, store, changes | {"recipes": ["vanilla"]})
    assert found == {f"vanilla {level}": [Difference(field, here, there)]}


def test_of_another_teacher_its_own_field_is_named(tmp_path: Path, store: Path) -> None:
    plan = planned(tmp_path, TAUGHT | {"teacher.training": {"epochs": 9}})
    progress = Progress(plan, Store(store))
    (teacher,) = missing(progress)  # the students depend on it
    assert list(teacher.differences) == [Difference("training.epochs", "9", "4")]
    both = tmp_path / "both"
    fill(both, planned(tmp_path / "first", TAUGHT))
    fill(
        both,
        planned(
            tmp_path / "second", TAUGHT | {"teacher.training": {"epochs": 9}, "pruning.levels": 1}
        ),
    )
    identities = Identities(Store(both))
    distilled = [
        (key, fields)
        for key, fields in identities.levels()
        if fields["distillation"] and fields["level"] == 1
    ]
    (_, one), *others = distilled
    found = [differences(one, other, identities.get) for _, other in others]
    assert {d.field for ds in found for d in ds} >= {"teacher.training.epochs"}
    assert not {d.field for ds in found for d in ds} & {"parent", "distillation.table"}


def test_where_only_the_parents_differ_the_nearest_ancestors_do() -> None:
    """Levels of a list of sparsities know their own alone."""
    chains: dict[str, dict[str, Any]] = {}
    for name, sparsity in (("a", 0.5), ("b", 0.6)):
        chains[f"{name}1"] = {"level": 1, "parent": "root", "pruning": {"sparsity": sparsity}}
        for level in range(2, 3000):  # deeper than Python's stack
            parent = f"{name}{level - 1}"
            chains[f"{name}{level}"] = {"level": level, "parent": parent, "pruning": {}}
    found = differences(chains["a2999"], chains["b2999"], chains.get)
    assert found == [Difference("pruning.sparsity", "0.5", "0.6")]
    # Where an ancestor is not to be had, the parent itself is named.
    del chains["b2000"]
    (parent,) = differences(chains["a2999"], chains["b2999"], chains.get)
    assert parent == Difference("parent", '"a2000"', '"b2000"')


def test_differences_are_none_or_as_many_as_fields_were_changed() -> None:
    identity = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": {"f": {"g": "x"}}}
    assert flat(identity) == {"a": "1", "b.c": "[1, 2]", "e.f.g": '"x"'}
    other = copy.deepcopy(identity)
    assert differences(identity, other, {}.get) == []
    assert distance(flat(identity), flat(other)) == 0
    other["b"] = {"c": [1, 2], "d": 3}
    del other["e"]
    assert [(d.field, d.first, d.second) for d in differences(identity, other, {}.get)] == [
        ("e.f.g", '"x"', "absent"),
        ("b.d", "absent", "3"),
    ]
    assert distance(flat(identity), flat(other)) == distance(flat(other), flat(identity)) == 2


def of_older_numerics(store: Store, key: str) -> str:
    """Turn a level into one of another numerics version; return its key."""
    folder = store.folder("levels", key)
    identity = json.loads((folder / "identity.json").read_bytes()) | {"numerics_version": 1}
    content = json.dumps(identity, sort_keys=True, separators=(",", ":")).encode()
    other = hashlib.sha256(b"LevelIdentity:" + content).hexdigest()
    moved = store.folder("levels", other)
    moved.parent.mkdir(exist_ok=True)
    folder.rename(moved)
    (moved / "identity.json").write_bytes(content)
    write_checksums(moved, {**read_checksums(moved), "identity.json": checksum_of(content)})
    return other


def test_another_numerics_version_is_named(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    progress = fill(tmp_path / "store", plan)
    ((_, known),) = progress.known.items()
    older = of_older_numerics(progress.store, known.levels[0].key)
    (found,) = missing(Progress(plan, Store(tmp_path / "store")))
    assert (found.level, found.nearest) == (0, older)
    (difference,) = found.differences
    assert (difference.field, difference.second) == ("numerics_version", "1")


def test_plan_says_why_and_diff_says_the_same(tmp_path: Path) -> None:
    fill(tmp_path / "dsdctl-store", planned(tmp_path, {"seeds": [0, 1]}))
    other = spec_data({"seeds": [0, 1, 2], "pruning.fraction": 0.3})
    write(tmp_path / "other.yaml", other)
    plain = dsdctl(tmp_path, "plan", "other.yaml").stdout
    assert "why not" not in plain
    said = dsdctl(tmp_path, "plan", "other.yaml", "--why").stdout
    assert said.startswith(plain)
    why = one_line(said.removeprefix(plain).split("why not from the store\n")[1])
    first = "vanilla seeds 0, 1, level 1: pruning.fraction is 0.3, there 0.2 (nearest: "
    assert why.startswith(first)
    assert " vanilla seed 2, level 0: seed is 2, there " in why
    line = ["plan", str(tmp_path / "other.yaml"), "--why"]
    line += ["--store", str(tmp_path / "dsdctl-store")]
    narrow = CliRunner().invoke(app, line, env={"COLUMNS": "60"}).output
    assert why in one_line(narrow)  # wrapped, not cut off
    refused = dsdctl(tmp_path, "plan", "other.yaml", "--why", "--json")
    assert (refused.returncode, refused.stderr) == (2, "--why: not with --json\n")

    progress = fill(
        tmp_path / "dsdctl-store", planned(tmp_path / "more", {"pruning.fraction": 0.3})
    )
    (known,) = progress.known.values()
    nearest = why.removeprefix(first)[:12]
    shown = dsdctl(tmp_path, "store", "diff", known.levels[1].key[:10], nearest[:10])
    lines = [line.split() for line in shown.stdout.splitlines() if line.strip()]
    field, one, other_key = lines[0]
    assert (field, one) == ("field", known.levels[1].key[:12])
    assert other_key.startswith(nearest)
    assert lines[2:] == [["pruning.fraction", "0.3", "0.2"]]


@pytest.mark.parametrize("key", ["", "zz", "0123456789abcdef"])
def test_a_key_that_is_none_is_refused(tmp_path: Path, key: str) -> None:
    fill(tmp_path / "dsdctl-store", planned(tmp_path))
    refused = dsdctl(tmp_path, "store", "diff", key, key)
    assert refused.returncode == 2
    assert f"KEY: {key}: " in refused.stderr


def test_who_uses_a_level_is_said_of_every_way_to_prune(tmp_path: Path) -> None:
    changes = {
        "pruning": {"sparsities": [0.3, 0.6], "retrain": {"mode": "rewind", "iteration": 1}},
        "recipes": ["vanilla", "kd-dense-teacher"],
    }
    progress = fill(tmp_path / "store", planned(tmp_path, changes))
    found = users(progress)
    stored = {level.key for known in progress.known.values() for level in known.levels}
    assert stored < found.keys()
    teachers = [t for t in progress.plan.trajectories.values() if t.students]
    early = [
        t.rewind_checkpoint(None) for t in progress.plan.trajectories.values() if not t.teacher
    ]
    assert {key_of(state) for state in early if state is not None} <= found.keys()
    assert all(found[progress.known[t.key].levels[0].key] == ["teacher"] for t in teachers)
