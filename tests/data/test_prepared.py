"""Prepared images are whole or made anew, also where a process is killed or two are at it."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dsdctl.data import prepared
from dsdctl.data.prepared import RawDataset, RawSplit, is_whole, open_part, prepare, read_manifest
from dsdctl.errors import WorkError
from dsdctl.system.atomic import is_temporary

SHAPE = (4, 5, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (1130, *SHAPE), dtype=np.uint8)
TRAIN, TEST = PIXELS[:1100], PIXELS[1100:]
LABELS = np.arange(1100) % 7
FILES = ("train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy")


def silent(_done: int, _total: int) -> None:
    pass


def original(read: Callable[[int, int], np.ndarray] | None = None) -> RawDataset:
    train = RawSplit(LABELS.tolist(), SHAPE, read or (lambda start, stop: TRAIN[start:stop]))
    test = RawSplit([3] * 30, SHAPE, lambda start, stop: TEST[start:stop])
    return RawDataset(
        7, {"train": train, "test": test}, lambda: {"content": "c", "fingerprint": "f"}
    )


def never() -> RawDataset:
    raise AssertionError("what is there is made again")


def made(folder: Path) -> Path:
    prepare(folder / "set", original, silent, thorough=True)
    return folder / "set"


def assert_right(folder: Path) -> None:
    assert is_whole(folder, thorough=True)
    for mapped in (False, True):
        images, labels = open_part(folder, "train", mapped=mapped)
        assert np.array_equal(images, TRAIN)
        assert np.array_equal(labels, LABELS)
        images, labels = open_part(folder, "test", mapped=mapped)
        assert np.array_equal(images, TEST)
        assert labels.tolist() == [3] * 30
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def test_what_is_prepared_is_what_was_read(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert_right(folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    assert (manifest.classes, manifest.content, manifest.fingerprint) == (7, "c", "f")
    assert manifest.bytes == sum((folder / name).stat().st_size for name in FILES)


def test_what_is_whole_is_not_made_again(tmp_path: Path) -> None:
    folder = made(tmp_path)
    before = [(folder / name).stat().st_mtime_ns for name in FILES]
    prepare(folder, never, silent, thorough=True)
    assert [(folder / name).stat().st_mtime_ns for name in FILES] == before


def test_progress_is_told_up_to_the_last_image(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    prepare(tmp_path / "set", original, lambda *now: told.append(now), thorough=True)
    assert told == [(512, 1130), (1024, 1130), (1100, 1130), (1130, 1130)]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def alter(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", [Path.unlink, truncate, alter])
def test_what_is_damaged_is_found_and_made_anew(
    tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    folder = made(tmp_path)
    damage(folder / name)
    assert not is_whole(folder, thorough=True)
    prepare(folder, original, silent, thorough=True)
    assert_right(folder)


@pytest.mark.parametrize(
    "manifest",
    ["", "[]", "{}", '{"classes": 7, "files": {}}', '{"classes": 7, "files": []}', '"text"'],
)
def test_a_manifest_that_says_nothing_counts_as_damage(tmp_path: Path, manifest: str) -> None:
    folder = made(tmp_path)
    (folder / "manifest.json").write_text(manifest)
    assert read_manifest(folder) is None
    prepare(folder, original, silent, thorough=False)
    assert_right(folder)


def test_a_cursory_check_sees_sizes_alone(tmp_path: Path) -> None:
    folder = made(tmp_path)
    alter(folder / "train_images.npy")
    assert is_whole(folder, thorough=False)
    truncate(folder / "train_images.npy")
    assert not is_whole(folder, thorough=False)


def test_an_original_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(start: int, stop: int) -> np.ndarray:
        if start:
            raise WorkError("cannot be read")
        return TRAIN[start:stop]

    with pytest.raises(WorkError, match="cannot be read"):
        prepare(tmp_path / "set", lambda: original(fail), silent, thorough=True)
    assert not list(tmp_path.iterdir())


def test_a_search_that_finds_nothing_leaves_nothing_behind(tmp_path: Path) -> None:
    def absent() -> RawDataset:
        raise WorkError("not found")

    for folder in (tmp_path / "data" / "dsdctl-prepared" / "set", tmp_path / "set"):
        with pytest.raises(WorkError, match="not found"):
            prepare(folder, absent, silent, thorough=True)
    assert not list(tmp_path.iterdir())


def test_what_a_download_began_is_not_taken_away(tmp_path: Path) -> None:
    def broken_off() -> RawDataset:
        (tmp_path / "data" / "half").write_text("")
        raise WorkError("not found")

    with pytest.raises(WorkError, match="not found"):
        prepare(tmp_path / "data" / "dsdctl-prepared" / "set", broken_off, silent, thorough=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "half"]


def test_a_disk_without_room_is_said_before_it_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = prepared.shutil._ntuple_diskusage(2**40, 2**40 - 60_000, 60_000)
    monkeypatch.setattr(prepared.shutil, "disk_usage", lambda _folder: usage)
    with pytest.raises(WorkError, match=r"/set: the prepared images take .* GiB, but only"):
        prepare(tmp_path / "set", original, silent, thorough=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match=r"file: (File exists|Not a directory)"):
        prepare(tmp_path / "file" / "set", original, silent, thorough=True)


# Processes


def _prepare_and_die(folder: Path) -> None:
    def read(start: int, stop: int) -> np.ndarray:
        if start:
            os.kill(os.getpid(), signal.SIGKILL)
        return TRAIN[start:stop]

    prepare(folder, lambda: original(read), silent, thorough=True)


def _prepare_slowly(folder: Path, log: Path) -> None:
    def read(start: int, stop: int) -> np.ndarray:
        with log.open("a") as stream:
            stream.write(f"{start}\n")
        time.sleep(0.2)
        return TRAIN[start:stop]

    prepare(folder, lambda: original(read), silent, thorough=True)
    assert_right(folder)


def start(target: Callable[..., None], *arguments: object) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


def test_a_process_that_is_killed_halfway_is_cleared_up_after(tmp_path: Path) -> None:
    process = start(_prepare_and_die, tmp_path / "set")
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path for path in tmp_path.iterdir() if is_temporary(path)]
    assert not (tmp_path / "set").exists()
    prepare(tmp_path / "set", original, silent, thorough=True)
    assert_right(tmp_path / "set")


def _prepare_what_fails(folder: Path, log: Path) -> None:
    def fail() -> RawDataset:
        with log.open("a") as stream:
            stream.write("began ")
        time.sleep(0.02)
        with log.open("a") as stream:
            stream.write("ended\n")
        raise WorkError("not found")

    for _ in range(20):
        with pytest.raises(WorkError, match="not found"):
            prepare(folder, fail, silent, thorough=True)


def test_processes_that_all_tidy_up_still_take_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = (tmp_path / "data" / "set", log)
    processes = [start(_prepare_what_fails, *arguments) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == 60 * "began ended\n"
    assert not list(tmp_path.rglob("*.lock"))


def test_of_two_processes_one_prepares_and_the_other_waits(tmp_path: Path) -> None:
    log = tmp_path / "elsewhere" / "log"
    log.parent.mkdir()
    folder = tmp_path / "data" / "set"
    processes = [start(_prepare_slowly, folder, log) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text().split() == ["0", "512", "1024"]
