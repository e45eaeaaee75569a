"""A run that is interrupted anywhere and started again ends as if it had never been."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import build_network
from soak import (
    Checkpoints,
    assert_workers_end_with,
    dsdctl,
    ended,
    inflight,
    levels,
    pieces_of,
    result_bytes,
    spec,
    start,
    wait_until,
    workers,
)
from tiny import ROOT

from dsdctl.cost.macs import FILE as MACS
from dsdctl.ml.data import Split
from dsdctl.ml.masks import count_nonzero, dense_masks, prunable_weights, remove_lowest
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.scores import magnitude_scores
from dsdctl.ml.teacher import cached_logits, distillation_from
from dsdctl.ml.train import Epoch, Trainer
from dsdctl.ml.views import Normalization, ViewReader, Views
from dsdctl.results import Environment
from dsdctl.store.checkpoints import Checkpoint
from dsdctl.store.store import Store
from dsdctl.system.kill_points import POINTS

HERE = Environment(python="3", torch="2", dsdctl="0", device="cpu", threads=1, wall_seconds=1.0)

EVERY_EPOCH = ("--checkpoint-every", "0", "--jobs", "1")

SETTINGS = Settings(
    epochs=5,
    batch_size=8,
    lr=0.05,
    momentum=0.9,
    weight_decay=1e-2,
    milestones=(2, 4),
    gamma=0.1,
    precision="fp32",
)


def _pictures() -> tuple[Split, ViewReader]:
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (44, 8, 8, 1), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, 4, (44,), generator=stream)
    return Split(images, labels), ViewReader(images, Normalization((0.4,), (0.3,)), Views(True, 1))


def _trainer(settings: Settings) -> Trainer:
    """A pruned network that learns from a table of a teacher's logits."""
    network = build_network("vgg-like", 1, 4, seed=0, depth=2, width=4, pool=2)
    weights = prunable_weights(network)
    masks = dense_masks(weights)
    masks = remove_lowest(magnitude_scores(weights), masks, count_nonzero(masks) // 2)
    table = torch.randn(44, 18, 4, generator=torch.Generator().manual_seed(1))
    loss = distillation_from(cached_logits(table), alpha=0.8, temperature=10, label_smoothing=0.1)
    return Trainer(network, masks, settings, loss)


def _train(trainer: Trainer, start: int, end: int) -> list[Epoch]:
    pictures, reader = _pictures()
    return [
        trainer.train_epoch(reader, pictures.labels, seed=3, level=1, epoch=epoch)
        for epoch in range(start, end)
    ]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.numerics
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, {"momentum"}),
        ({"nesterov": True, "warmup": 2}, {"momentum"}),
        (
            {"optimizer": "adamw", "schedule": "cosine", "warmup": 3, "clip_norm": 0.5},
            {"step", "exp_avg", "exp_avg_sq"},
        ),
    ],
    ids=["sgd", "nesterov, warm-up", "adamw, cosine"],
)
@pytest.mark.parametrize("cut", range(SETTINGS.epochs + 1))
def test_a_trainer_goes_on_from_a_checkpoint_bit_for_bit(
    cut: int, options: dict[str, Any], kept: set[str], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, **options)
    whole = _trainer(settings)
    epochs = _train(whole, 0, SETTINGS.epochs)
    store = Store(tmp_path)
    store.open_for_writing()
    first = _trainer(settings)
    rows = [asdict(epoch) for epoch in _train(first, 0, cut)]
    store.checkpoints.save("key", Checkpoint(rows, first.state(), HERE))

    checkpoint = store.checkpoints.load("key")
    assert checkpoint is not None
    second = _trainer(settings)
    second.load_state(checkpoint.tensors)
    before = [Epoch(**row) for row in checkpoint.epochs]
    assert [*before, *_train(second, cut, SETTINGS.epochs)] == epochs
    state = second.state()
    assert {name.partition("/")[0] for name in state} == {"network", *kept}
    assert state.keys() == whole.state().keys()
    for name, tensor in whole.state().items():
        assert torch.equal(state[name], tensor), name


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec (a teacher, its table, a student of three levels) and its store."""
    folder = tmp_path_factory.mktemp("taught")
    _write_taught(folder)
    done = dsdctl(folder, "run", "small.yaml", *EVERY_EPOCH)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    assert len(levels(folder / "dsdctl-store")) == 4
    assert not inflight(folder / "dsdctl-store")
    return folder


def _write_taught(folder: Path) -> None:
    distil = "recipe: taught\ntitle: No stop rule\ndistill: {teacher: dense}\n"
    (folder / "taught.yaml").write_text(distil)
    spec(folder, ("[vanilla]", "[taught]"), ("levels: 1", "levels: 2"))


def _copy_macs(source: Path, folder: Path) -> None:
    """Have a store know what takes torch to count, as any does but a new one."""
    (folder / "dsdctl-store").mkdir()
    shutil.copy(source / "dsdctl-store" / MACS, folder / "dsdctl-store")


def _assert_ends_as_if_never_interrupted(folder: Path, taught: Path) -> None:
    done = dsdctl(folder, "run", "small.yaml", *EVERY_EPOCH)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (taught / "stdout").read_text()
    assert result_bytes(folder / "dsdctl-store") == result_bytes(taught / "dsdctl-store")
    assert not inflight(folder / "dsdctl-store")
    checked = dsdctl(folder, "store", "check")
    assert checked.returncode == 0, checked.stdout


# One worker runs the teacher (3 epochs), its table and the student's levels (3 epochs each), and
# every run goes on where the one before was killed. So these kills fall, in this order, on the
# teacher, the table, the student's level 0, its level 1 (three times) and its level 2.
KILLS_IN_TURN = (
    "training:2",
    "table-built",
    "checkpoint-written:2",
    "checkpoint-renamed:3",
    "commit-written",
    "commit-renamed",
    "scheduling",
)


# The first time that the run comes there, or the third.
KILLS_ALONE = (
    "training:3",
    "checkpoint-written:1",
    "checkpoint-renamed:3",
    "commit-written:1",
    "commit-renamed:3",
    "table-built:1",
    "scheduling:3",
)


@pytest.mark.parametrize("kills", [KILLS_IN_TURN, KILLS_ALONE], ids=["in turn", "alone"])
def test_every_named_point_is_tried(kills: tuple[str, ...]) -> None:
    assert sorted(kill.partition(":")[0] for kill in kills) == sorted(POINTS)


@pytest.mark.long
def test_killed_at_every_named_point_in_turn_it_ends_with_the_same_bytes(
    taught: Path, tmp_path: Path
) -> None:
    _write_taught(tmp_path)
    for kill in KILLS_IN_TURN:
        done = dsdctl(tmp_path, "run", "small.yaml", *EVERY_EPOCH, kill_at=kill)
        if kill == "scheduling":
            assert done.returncode == -signal.SIGKILL
        else:
            assert done.returncode == 3, (kill, done.stderr)
            assert "its worker process died" in done.stderr
    _assert_ends_as_if_never_interrupted(tmp_path, taught)


@pytest.mark.long
@pytest.mark.parametrize("kill", KILLS_ALONE)
def test_killed_at_any_one_point_it_ends_with_the_same_bytes(
    kill: str, taught: Path, tmp_path: Path
) -> None:
    _write_taught(tmp_path)
    _copy_macs(taught, tmp_path)
    killed = dsdctl(tmp_path, "run", "small.yaml", *EVERY_EPOCH, kill_at=kill)
    assert killed.returncode == (-signal.SIGKILL if kill.startswith("scheduling") else 3)
    _assert_ends_as_if_never_interrupted(tmp_path, taught)


@pytest.mark.long
@pytest.mark.linux
def test_an_interrupted_level_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    epochs = 150
    spec(tmp_path, ("epochs: 3", f"epochs: {epochs}"), ("levels: 1", "levels: 0"))
    store = tmp_path / "dsdctl-store"
    reference = dsdctl(tmp_path, "run", "small.yaml", "--store", "reference")
    trained = 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        checkpoints = Checkpoints(store)
        process = start(tmp_path, "run", "small.yaml", *EVERY_EPOCH)
        before = trained
        wait_until(lambda before=before: _epochs(store) > before)
        process.send_signal(number)
        done = ended(process)
        assert done.returncode == code
        assert "re-run the command to resume" in done.stderr
        assert not levels(store)
        trained = _epochs(store)
        assert before < trained < epochs
        # One more than it trained: the last, asked for by the signal, after an epoch kept already.
        assert sum(checkpoints.taken().values()) == trained - before + 1
    checkpoints = Checkpoints(store)
    done = dsdctl(tmp_path, "run", "small.yaml", *EVERY_EPOCH)
    assert sum(checkpoints.taken().values()) == epochs - trained
    assert done.stdout == reference.stdout
    assert result_bytes(store) == result_bytes(tmp_path / "reference")


@pytest.mark.long
@pytest.mark.parametrize(("grace", "kept"), [(0, 0), (60, 1)])
@pytest.mark.linux
def test_an_interrupted_level_has_the_given_time_to_the_end_of_its_epoch(
    grace: int, kept: int, tmp_path: Path
) -> None:
    """An epoch takes a second or more; none is kept but for the signal."""
    spec(tmp_path, ("batch_size: 200", "batch_size: 2"), ("epochs: 3", "epochs: 1000"))
    store = tmp_path / "dsdctl-store"
    line = ("run", "small.yaml", "--checkpoint-every", "inf", "--jobs", "1")
    process = start(tmp_path, *line, "--grace", grace)
    wait_until(lambda: any(pieces_of(worker, store) for worker in workers(process.pid)))
    process.send_signal(signal.SIGTERM)
    assert ended(process).returncode == 143
    assert len(inflight(store)) == kept


def _epochs(store: Path) -> int:
    """Epochs in the checkpoint of the only level in flight."""
    for file in inflight(store):
        checkpoint = Store(store).checkpoints.load(file.name)
        return 0 if checkpoint is None else len(checkpoint.epochs)
    return 0


@pytest.mark.linux
def test_a_killed_run_leaves_no_worker_in_training_behind(tmp_path: Path) -> None:
    spec(tmp_path, ("epochs: 3", "epochs: 100000"), ("seeds: [0]", "seeds: [0, 1]"))
    process = start(tmp_path, "run", "small.yaml", "--checkpoint-every", "0", "--jobs", "2")
    assert_workers_end_with(process, tmp_path / "dsdctl-store")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.linux
def test_a_short_soak_finds_no_difference() -> None:
    line = [sys.executable, "-m", "tests.soak.soak", "--kills", "3", "--epochs", "6"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("all identical")
