"""The store: what lies in it is complete and checked, or it is not there."""

import json
import multiprocessing
import os
import resource
import shutil
import socket
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load
from torch.testing import assert_close

import dsdctl.store.levels
import dsdctl.store.root
from dsdctl.errors import DamagedError, DriftError, InputError, WorkError
from dsdctl.keys import (
    ImagesIdentity,
    LevelIdentity,
    NoiseIdentity,
    TableIdentity,
    TeacherIdentity,
    key_of,
)
from dsdctl.results import Diverged, Environment
from dsdctl.spec.networks.vgg import VGGLike
from dsdctl.spec.training import Training
from dsdctl.spec.views import Augment, Normalize
from dsdctl.store.at_work import Stage
from dsdctl.store.checkpoints import Checkpoint
from dsdctl.store.folders import tensor_bytes
from dsdctl.store.maintenance import problems
from dsdctl.store.root import MARKER
from dsdctl.store.store import Store

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
EPOCH = {"epoch": 0, "lr": 0.1, "loss": 2.0, "accuracy": 0.3}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.open_for_writing()
    return store


def _commit(store: Store) -> Path:
    store.levels.commit(IDENTITY, RESULT, ENVIRONMENT, [EPOCH], WEIGHTS, MASKS)
    return store.root / "levels" / KEY[:2] / KEY


def test_a_committed_level_reads_back_equal(store: Store) -> None:
    assert store.levels.get(KEY) is None
    folder = _commit(store)
    level = store.levels.get(KEY)
    assert level is not None
    assert (level.key, level.result, level.environment) == (KEY, RESULT, ENVIRONMENT)
    assert store.levels.identity(KEY) == IDENTITY
    for name, tensor in store.levels.tensors(KEY, "weights").items():
        assert torch.equal(tensor, WEIGHTS[name])
    assert torch.equal(store.levels.tensors(KEY, "masks")["a.weight"], MASKS["a.weight"])
    assert json.loads((folder / "epochs.jsonl").read_text())["loss"] == 2.0


def test_a_commit_leaves_nothing_temporary(store: Store) -> None:
    folder = _commit(store)
    assert [entry.name for entry in folder.parent.iterdir()] == [KEY]


def test_what_was_committed_first_stays(store: Store) -> None:
    _commit(store)
    store.levels.commit(IDENTITY, Diverged(level=0, epoch=9), ENVIRONMENT, [], WEIGHTS, MASKS)
    level = store.levels.get(KEY)
    assert level is not None
    assert level.result == RESULT


def test_a_table_reads_back_equal(store: Store) -> None:
    logits = torch.randn(4, 3, 2)
    assert not store.tables.has(key_of(TABLE))
    store.tables.commit(TABLE, ENVIRONMENT, logits)
    assert store.tables.has(key_of(TABLE))
    assert torch.equal(store.tables.logits(key_of(TABLE)), logits)


@pytest.mark.parametrize(
    "name", ["result.json", "identity.json", "environment.json", "checksums.json"]
)
@pytest.mark.parametrize("how", ["missing", "truncated", "altered", "empty"])
def test_a_damaged_file_is_named_and_its_level_moves_only_when_told(
    store: Store, name: str, how: str
) -> None:
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
    before = sorted(store.root.rglob("*"))
    assert store.levels.get(KEY) is None and store.levels.get(KEY) is None
    (line,) = store.damage
    assert name in line and line.endswith(" (counts as missing)")
    assert sorted(store.root.rglob("*")) == before
    store.quarantine(file.parent)
    (aside,) = (store.root / "setaside").iterdir()
    (line,) = store.damage
    assert name in line and line.endswith(f" (quarantined as {aside})")
    _commit(store)
    assert store.levels.get(KEY) is not None


@pytest.mark.parametrize("name", ["weights.safetensors", "masks.safetensors", "epochs.jsonl"])
def test_a_large_file_of_the_wrong_size_is_found_without_reading_it(
    store: Store, name: str
) -> None:
    file = _commit(store) / name
    file.write_bytes(file.read_bytes()[:-1])
    assert store.levels.get(KEY) is None
    assert name in store.damage[0]


def test_altered_weights_are_never_used(store: Store) -> None:
    file = _commit(store) / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedError, match=r"weights\.safetensors: checksum mismatch"):
        store.levels.tensors(KEY, "weights")


def test_a_level_under_another_key_is_damage(store: Store) -> None:
    folder = _commit(store)
    other = store.root / "levels" / "00" / ("0" * 64)
    other.parent.mkdir(parents=True)
    folder.rename(other)
    assert store.levels.get("0" * 64) is None
    assert "does not belong to this key" in store.damage[0]


def test_what_is_gone_by_now_is_not_quarantined(store: Store) -> None:
    store.quarantine(store.folder("levels", KEY))
    assert store.damage == [] and not (store.root / "setaside").exists()


def test_a_store_that_vanished_is_not_made_anew(store: Store) -> None:
    shutil.rmtree(store.root)
    with pytest.raises(WorkError, match="the store has vanished"):
        _commit(store)
    assert not store.root.exists()


def test_a_store_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--store: .* cannot be written"):
        Store(tmp_path / "file" / "store").open_for_writing()


def test_dropped_weights_are_no_damage_and_come_back_only_as_they_were(store: Store) -> None:
    folder = _commit(store)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    size = len(before["weights.safetensors"])
    assert store.levels.drop_weights(KEY) == size
    assert store.levels.drop_weights(KEY) == 0
    assert not (folder / "weights.safetensors").exists()
    assert store.levels.lacks_weights(KEY)
    assert store.levels.get(KEY) is not None
    assert problems(folder) == []
    with pytest.raises(WorkError, match="dropped by `dsdctl store gc`"):
        store.levels.tensors(KEY, "weights")

    other = {**WEIGHTS, "a.bias": torch.zeros(2)}
    epochs = [EPOCH]
    now = ENVIRONMENT.model_copy(update={"torch": "3"})
    said = r"weights\.safetensors came out different \(then torch 2 on cpu.*now torch 3 on cpu"
    with pytest.raises(DriftError, match=said):
        store.levels.commit(IDENTITY, RESULT, now, epochs, other, MASKS)
    with pytest.raises(DriftError, match=r"dropped weights, but result\.json came out different"):
        store.levels.commit(
            IDENTITY, Diverged(level=0, epoch=9), ENVIRONMENT, epochs, WEIGHTS, MASKS
        )
    assert store.levels.lacks_weights(KEY)

    store.levels.commit(IDENTITY, RESULT, now, epochs, WEIGHTS, MASKS)
    assert not store.levels.lacks_weights(KEY)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("read", "module"),
    [("check_sizes", dsdctl.store.levels), ("read_checked", dsdctl.store.root)],
    ids=["check_sizes", "read_checked"],
)
def test_a_level_whose_weights_are_dropped_while_it_is_read_is_not_set_aside(
    store: Store, monkeypatch: pytest.MonkeyPatch, read: str, module: ModuleType
) -> None:
    """Readers hold no lock: `store gc --weights` may come between two files."""
    folder = _commit(store)
    as_it_was = getattr(module, read)

    def after_a_drop(*arguments: object) -> object:
        Store(store.root).levels.drop_weights(KEY)
        return as_it_was(*arguments)

    monkeypatch.setattr(module, read, after_a_drop)
    if read == "check_sizes":
        assert store.levels.get(KEY) is not None
    else:
        with pytest.raises(WorkError, match="dropped by `dsdctl store gc`"):
            store.levels.tensors(KEY, "weights")
    assert folder.is_dir()
    assert store.damage == []


def test_weights_of_a_level_that_a_process_is_at_are_not_dropped(store: Store) -> None:
    folder = _commit(store)
    with store.lock(KEY):
        assert store.levels.drop_weights(KEY) == 0
    assert (folder / "weights.safetensors").exists()


def test_another_program_s_file_of_the_marker_s_name_is_left_alone(tmp_path: Path) -> None:
    marker = tmp_path / MARKER
    for content in ('{"shop": "fruit"}', '{"format": 2}', ""):
        marker.write_text(content)
        with pytest.raises(InputError, match=r"store\.json: not that of a store of this version"):
            Store(tmp_path).open_for_writing()
        assert marker.read_text() == content


def test_an_error_that_says_nothing_of_a_file_is_not_taken_for_damage(store: Store) -> None:
    """With no file descriptor left nothing can be read, and nothing may be set aside."""
    folder = _commit(store)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            store.levels.get(KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert folder.exists()
    assert store.damage == []


def test_a_checkpoint_reads_back_equal_and_the_newer_replaces_the_older(store: Store) -> None:
    assert store.checkpoints.load(KEY) is None
    epochs = [EPOCH, {**EPOCH, "epoch": 1, "loss": 1 / 3}]
    older = Checkpoint(epochs[:1], {"x": torch.zeros(2)}, ENVIRONMENT)
    newer = Checkpoint(epochs, {"x": torch.tensor([1 / 3, 2.0])}, ENVIRONMENT)
    store.checkpoints.save(KEY, older)
    store.checkpoints.save(KEY, newer)
    checkpoint = store.checkpoints.load(KEY)
    assert checkpoint is not None
    assert (checkpoint.epochs, checkpoint.environment) == (epochs, ENVIRONMENT)
    assert torch.equal(checkpoint.tensors["x"], newer.tensors["x"])
    assert [file.name for file in (store.root / "inflight").iterdir()] == [KEY]
    store.checkpoints.drop(KEY)
    assert store.checkpoints.load(KEY) is None


@pytest.mark.parametrize("cut", [0, 1, 33, 80])
def test_a_damaged_checkpoint_is_set_aside(store: Store, cut: int) -> None:
    store.checkpoints.save(KEY, Checkpoint([], {"x": torch.zeros(2)}, ENVIRONMENT))
    file = store.root / "inflight" / KEY
    content = bytearray(file.read_bytes())
    if cut:
        file.write_bytes(content[:-cut])
    else:
        content[20] ^= 1
        file.write_bytes(content)
    with pytest.raises(DamagedError, match="damaged, so its level starts over") as error:
        store.checkpoints.load(KEY)
    assert error.value.path == file


def _hold(root: str, ready: str) -> None:
    with Store(Path(root)).lock("x"):
        Path(ready).touch()
        time.sleep(100)


def test_a_lock_is_held_by_one_and_freed_when_its_owner_is_killed(store: Store) -> None:
    ready = store.root / "ready"
    owner = multiprocessing.get_context("spawn").Process(
        target=_hold, args=(str(store.root), str(ready))
    )
    owner.start()
    while not ready.exists():
        time.sleep(0.01)
    with store.lock("x") as locked, store.lock("y") as other:
        assert not locked
        assert other
    owner.kill()
    owner.join()
    with store.lock("x") as locked:
        assert locked


def test_who_is_at_a_piece_of_work_is_known_for_as_long_as_that_lasts(store: Store) -> None:
    reader = Store(store.root)
    assert reader.told("x") is None and not reader.is_held("x")
    assert not list(store.root.glob("locks/*"))
    stage = Stage(name="epoch", number=3, count=4, batch=1, batches=2)
    with store.at_work("x") as teller:
        assert teller is not None
        worker = reader.told("x")
        assert worker is not None and worker.stage == Stage()
        assert (worker.host, worker.pid) == (socket.gethostname(), os.getpid())
        assert abs(worker.since - time.time()) < 60
        teller.notify(stage)
        assert not teller.due
        told = reader.told("x")
        assert told is not None and told.stage == stage and told.since == worker.since
        assert reader.is_held("x")
        with store.at_work("x") as other:
            assert other is None
        assert reader.told("x") == told
    assert reader.told("x") is None and not reader.is_held("x")
    (store.root / "locks/x").write_text('{"host": "gone", ')
    assert reader.told("x") is None


@pytest.mark.parametrize(
    ("stage", "share"),
    [
        (Stage(), 0.0),
        (Stage(name="epoch", number=1, count=4, batches=2), 0.0),
        (Stage(name="epoch", number=4, count=4, batch=1, batches=2), 0.875),
        (Stage(name="view", number=82, count=162), 0.5),
        (Stage(name="measuring"), 1.0),
    ],
)
def test_a_stage_knows_what_share_of_the_work_is_done(stage: Stage, share: float) -> None:
    assert stage.share == share


def test_small_files_are_whole_or_absent(store: Store) -> None:
    assert store.read_json("calibration.json") is None
    store.write_json("calibration.json", {"a": 1})
    assert store.read_json("calibration.json") == {"a": 1}
    for content in ("{", "[1]"):
        (store.root / "calibration.json").write_text(content)
        assert store.read_json("calibration.json") is None


def test_equal_tensors_and_metadata_give_equal_bytes(tmp_path: Path) -> None:
    """Sixteen names would come out in the same order twice by accident once in 10^13 times."""
    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, 2, dtype=torch.int64)}
    metadata = {f"name {k}": f'"ü{k}' for k in range(16)}
    first, second = (tensor_bytes(tensors, dict(metadata)) for _ in range(2))
    assert first == second
    assert_close(load(first), tensors, rtol=0, atol=0)
    assert int.from_bytes(first[:8], "little") % 8 == 0
    file = tmp_path / "some.safetensors"
    file.write_bytes(first)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == metadata
