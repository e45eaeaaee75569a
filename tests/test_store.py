"""The store: what lies in it is complete and checked, or it is not there."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from dsdctl.keys import (
    ImagesIdentity,
    LevelIdentity,
    NoiseIdentity,
    TableIdentity,
    TeacherIdentity,
    key_of,
)
from dsdctl.ml.train import Epoch
from dsdctl.results import Diverged, Environment
from dsdctl.spec import Augment, Normalize, Training, VGGLike
from dsdctl.store import DamagedError, Store

IMAGES = ImagesIdentity(
    dataset="digits-1",
    content=None,
    test_fraction=0.4,
    validation="test",
    split_seed=0,
    normalize=Normalize(mean=(0.3,), std=(0.4,)),
    augment=Augment(),
)
IDENTITY = LevelIdentity(
    images=IMAGES,
    noise=NoiseIdentity(kind="symmetric", rate=0.4, seed=0),
    network=VGGLike(arch="vgg-like", depth=1, width=4),
    training=Training(epochs=2, batch_size=10),
    seed=0,
    level=0,
    pruning=None,
    parent=None,
    distillation=None,
)
TABLE = TableIdentity(images=IMAGES, teacher=TeacherIdentity(level="a" * 64), precision="fp32")
ENVIRONMENT = Environment(
    python="3", torch="2", dsdctl="0", device="cpu", threads=1, wall_seconds=1.5
)
RESULT = Diverged(level=0, epoch=3)
WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
MASKS = {"a.weight": torch.tensor([[True, False, True], [False, True, True]])}
KEY = key_of(IDENTITY)


def _commit(store: Store) -> Path:
    store.commit_level(
        IDENTITY, RESULT, ENVIRONMENT, [Epoch(0, 0.1, 2.0, 0.3)], WEIGHTS, MASKS
    )
    return store.root / "levels" / KEY[:2] / KEY


def test_a_committed_level_reads_back_equal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.level(KEY) is None
    folder = _commit(store)
    level = store.level(KEY)
    assert level is not None
    assert (level.key, level.result, level.environment) == (KEY, RESULT, ENVIRONMENT)
    assert store.level_identity(KEY) == IDENTITY
    for name, tensor in store.level_tensors(KEY, "weights").items():
        assert torch.equal(tensor, WEIGHTS[name])
    assert torch.equal(store.level_tensors(KEY, "masks")["a.weight"], MASKS["a.weight"])
    assert json.loads((folder / "epochs.jsonl").read_text())["loss"] == 2.0


def test_a_commit_leaves_nothing_temporary(tmp_path: Path) -> None:
    folder = _commit(Store(tmp_path))
    assert [entry.name for entry in folder.parent.iterdir()] == [KEY]


def test_what_was_committed_first_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _commit(store)
    store.commit_level(IDENTITY, Diverged(level=0, epoch=9), ENVIRONMENT, [], WEIGHTS, MASKS)
    level = store.level(KEY)
    assert level is not None
    assert level.result == RESULT


def test_a_table_reads_back_equal(tmp_path: Path) -> None:
    store = Store(tmp_path)
    logits = torch.randn(4, 3, 2)
    assert not store.has_table(key_of(TABLE))
    store.commit_table(TABLE, ENVIRONMENT, logits)
    assert store.has_table(key_of(TABLE))
    assert torch.equal(store.table(key_of(TABLE)), logits)


@pytest.mark.parametrize(
    "name", ["result.json", "identity.json", "environment.json", "checksums.json"]
)
@pytest.mark.parametrize("how", ["missing", "truncated", "altered", "empty"])
def test_a_damaged_file_is_named_and_the_level_set_aside(
    tmp_path: Path, name: str, how: str
) -> None:
    store = Store(tmp_path)
    file = _commit(store) / name
    content = file.read_bytes()
    match how:
        case "missing":
            file.unlink()
        case "truncated":
            file.write_bytes(content[:-3])
        case "altered":
            file.write_bytes(content.replace(b"0", b"1", 1).replace(b":", b";", 1))
        case "empty":
            file.write_bytes(b"")
    assert store.level(KEY) is None
    assert name in store.damage[0]
    assert len(list((tmp_path / "setaside").iterdir())) == 1
    _commit(store)
    assert store.level(KEY) is not None


@pytest.mark.parametrize("name", ["weights.safetensors", "masks.safetensors", "epochs.jsonl"])
def test_a_large_file_of_the_wrong_size_is_found_without_reading_it(
    tmp_path: Path, name: str
) -> None:
    store = Store(tmp_path)
    file = _commit(store) / name
    file.write_bytes(file.read_bytes()[:-1])
    assert store.level(KEY) is None
    assert name in store.damage[0]


def test_altered_weights_are_never_used(tmp_path: Path) -> None:
    store = Store(tmp_path)
    file = _commit(store) / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedError, match=r"weights\.safetensors: its checksum does not fit"):
        store.level_tensors(KEY, "weights")


def test_a_level_under_another_key_is_damage(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = _commit(store)
    other = tmp_path / "levels" / "00" / ("0" * 64)
    other.parent.mkdir(parents=True)
    folder.rename(other)
    assert store.level("0" * 64) is None
    assert "does not belong to this key" in store.damage[0]


def test_a_read_only_store_reports_damage_and_writes_nothing(tmp_path: Path) -> None:
    (_commit(Store(tmp_path)) / "result.json").unlink()
    before = sorted(tmp_path.rglob("*"))
    store = Store(tmp_path, read_only=True)
    assert store.level(KEY) is None
    assert "result.json" in store.damage[0]
    assert sorted(tmp_path.rglob("*")) == before


def _hold(root: str, ready: str) -> None:
    with Store(Path(root)).lock("x"):
        Path(ready).touch()
        time.sleep(100)


def test_a_lock_survives_nobody(tmp_path: Path) -> None:
    """The system frees the lock of a killed owner; while it lives, nobody else gets it."""
    ready = tmp_path / "ready"
    context = multiprocessing.get_context("spawn")
    owner = context.Process(target=_hold, args=(str(tmp_path), str(ready)))
    owner.start()
    while not ready.exists():
        time.sleep(0.01)
    waiter = context.Process(target=_hold, args=(str(tmp_path), str(tmp_path / "second")))
    waiter.start()
    waiter.join(timeout=1.5)
    assert not (tmp_path / "second").exists()
    assert owner.pid is not None
    os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "second").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (tmp_path / "second").exists()
    waiter.kill()
    waiter.join()
    owner.join()


def test_small_files_are_whole_or_absent(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.read_json("calibration.json") is None
    store.write_json("calibration.json", {"a": 1})
    assert store.read_json("calibration.json") == {"a": 1}
    (tmp_path / "calibration.json").write_text("{")
    assert store.read_json("calibration.json") is None
