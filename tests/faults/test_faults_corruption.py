"""Damaged files are found and never used, links are not followed, pipes not waited for."""

import json
import os
from pathlib import Path

import pytest
from leftovers import left_behind

from dsdctl.errors import DamagedError
from dsdctl.store import maintenance
from dsdctl.store.store import Store
from dsdctl.system import files
from faults.corruption import attempt, try_forgery
from faults.damage import Damage, damages
from faults.finished_store import Made, make

pytestmark = [pytest.mark.usefixtures("one_deterministic_thread"), pytest.mark.linux]

FAST = (
    "level's result.json, fifo",
    "level's weights.safetensors, link to the same",
    "level's checksums.json, folder there",
    "level's folder, link to the same",
    "two levels' folders, swapped",
    "two checkpoints, swapped",
    "checkpoint, fifo",
    "table's folder, file there",
    "prepared manifest.json, fifo",
    "prepared folder, link to nothing",
    "lock, fifo",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, one_deterministic_thread: None) -> Made:
    return make(tmp_path_factory.mktemp("corruption") / "made")


@pytest.mark.parametrize("case", [c for c in damages() if c.name in FAST], ids=lambda c: c.name)
def test_what_is_damaged_is_found_and_computed_anew(
    case: Damage, made: Made, tmp_path: Path
) -> None:
    _, wrong = attempt(case, made, tmp_path)
    assert wrong == []


def test_the_fast_cases_are_damages() -> None:
    assert set(FAST) <= {case.name for case in damages()}


@pytest.mark.parametrize(
    "name", ["an accuracy of 730 %", "weights that are no tensors", "a checkpoint of other tensors"]
)
def test_what_a_forger_cannot_do(name: str, made: Made, tmp_path: Path) -> None:
    _, wrong = try_forgery(name, made, tmp_path)
    assert wrong == []


# What a small file holds


VALUE = {"cpu": {"a": 1.5}, "start_seconds": {"cpu": 2.0}}


def test_no_flipped_bit_of_a_small_file_changes_what_is_read(tmp_path: Path) -> None:
    """But in the name of the digest, without which a file is read as one of an older version."""
    file = tmp_path / "small.json"
    content = files.mapping_bytes(VALUE)
    for place in range(len(content)):
        for bit in (0, 3, 6):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            found = files.read_mapping(file)
            assert found is None or {k: v for k, v in found.items() if k in VALUE} == VALUE


def test_a_small_file_of_an_older_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text(json.dumps(VALUE))
    assert files.read_mapping(tmp_path / "small.json") == VALUE


def test_no_file_is_read_through_a_link_nor_waited_for(tmp_path: Path) -> None:
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    file.write_text("x")
    link.symlink_to(file)
    os.mkfifo(pipe)
    assert files.read_file(file) == b"x"
    assert files.size_of(file) == 1
    for other in (link, pipe, tmp_path):
        for read in (files.read_file, files.size_of, files.open_lock):
            with pytest.raises(files.NotAFileError, match="not a regular file"):
                read(other)


def test_what_a_link_among_the_leftovers_leads_to_stays(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.open_for_writing()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("somebody's")
    link = left_behind(store.root / "levels" / "00" / ("0" * 64), Path.touch)
    link.unlink()
    link.symlink_to(outside)
    inside = left_behind(store.root / "inflight" / ("0" * 64), Path.mkdir)
    (inside / "link").symlink_to(outside)
    assert list(maintenance.leftovers(store)) == [inside]
    maintenance.remove(inside)
    assert not inside.exists()
    assert (outside / "file").read_text() == "somebody's"


def test_a_level_that_is_a_link_is_damaged_and_its_weights_stay(made: Made, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.open_for_writing()
    level = next(made.store.glob("levels/??/[0-9a-f]*"))
    place = store.root / "levels" / level.name[:2] / level.name
    place.parent.mkdir(parents=True)
    place.symlink_to(level)
    with pytest.raises(DamagedError, match="a link in the place of a folder"):
        store.levels.drop_weights(level.name)
    assert (level / "weights.safetensors").is_file()
