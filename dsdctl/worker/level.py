"""Run one piece of work: a level (load, prune, train, measure, commit) or a teacher table."""

import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

import dsdctl
from dsdctl.data.prepare import Files, fallback_folder
from dsdctl.errors import (
    BusyError,
    DamagedError,
    StoppedError,
    WorkError,
    describe_os_error,
)
from dsdctl.keys import NO_NOISE, LevelIdentity, key_of
from dsdctl.ml import gpu
from dsdctl.ml.data import Data
from dsdctl.ml.device import configure, own_stream
from dsdctl.ml.divergence import Diverged, LossWatch, check_finite
from dsdctl.ml.graph import capture_on
from dsdctl.ml.kernels import kernels
from dsdctl.ml.masks import dense_masks, prunable_weights
from dsdctl.ml.networks.own import seeded_training
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.teacher import build_table
from dsdctl.ml.train import Epoch, Trainer
from dsdctl.own.inspection import versions_of
from dsdctl.results import Diverged as DivergedResult
from dsdctl.results import Environment, FinishedLevel, LevelResult, environment_line
from dsdctl.store.at_work import Stage, Teller
from dsdctl.store.checkpoints import Checkpoint
from dsdctl.store.levels import EpochRow
from dsdctl.store.store import Store
from dsdctl.system.kill_points import kill_point
from dsdctl.worker.inputs import load_data, training_reader
from dsdctl.worker.networks import source_of
from dsdctl.worker.starting_point import starting_point
from dsdctl.worker.task_result import TaskResult
from dsdctl.worker.tasks import LevelTask, StopRequested, TableTask, Task, WorkerConfig
from dsdctl.worker.teachers import load_teacher, loss_of
from dsdctl.worker.trained import check_masked, measured


def run_task(task: Task, config: WorkerConfig, stop: StopRequested = lambda: False) -> TaskResult:
    """Run `task` unless its result, including a level's weights, is already in the store.

    The result has a `level` unless the task is a teacher table or a rewind checkpoint. Raises
    BusyError if another process is running it, StoppedError after an epoch at which `stop()` is
    true, DamagedError if its inputs in the store are corrupt, and WorkError for what can be told in
    words, as a full disk.
    """
    store = Store(Path(config.store))
    device = torch.device(config.device)
    configure(device, config.threads)
    files = Files(Path(task.dataset_path), fallback_folder(store.root), config.memory_budget)
    key = key_of(task.identity)
    with translate_errors(config), own_stream(device), store.at_work(key) as teller:
        if teller is None:
            raise BusyError(f"{key}: another process is running it")
        with _quarantining(store):
            if isinstance(task, TableTask):
                if not store.tables.has(key):
                    store.quarantine(store.folder("tables", key))
                    _run_table(task, store, files, device, teller)
                return TaskResult("done", damage=tuple(store.damage))
            level = store.levels.get(key)
            if level is None:
                store.quarantine(store.folder("levels", key))
            if level is None or store.levels.lacks_weights(key):
                every = config.checkpoint_every
                level = _run_level(task, store, files, device, every, stop, teller)
        store.checkpoints.drop(key)
        is_rewind_checkpoint = task.identity.iterations is not None
        reported = None if is_rewind_checkpoint else level
        return TaskResult("done", reported, damage=tuple(store.damage))


@contextmanager
def _quarantining(store: Store) -> Iterator[None]:
    """Quarantine what is found damaged, so that it counts as missing and is computed again."""
    try:
        yield
    except DamagedError as error:
        store.quarantine(error.path)
        raise


@contextmanager
def translate_errors(config: WorkerConfig) -> Iterator[None]:
    """Turn errors of the operating system, as a full disk, into WorkError with a plain message."""
    try:
        yield
    except WorkError:
        raise
    except Exception as error:
        words = describe_os_error(error, full=config.store)
        if words is None:
            raise
        raise WorkError(words) from error


def _run_level(
    task: LevelTask,
    store: Store,
    files: Files,
    device: torch.device,
    checkpoint_every: float,
    stop: StopRequested,
    teller: Teller,
) -> FinishedLevel:
    identity = task.identity
    checkpoint = _checkpoint(store, key_of(identity))
    source = source_of(identity.network, task.source)
    packages = versions_of(source.third_party) if source else {}
    clock = _Clock(device, checkpoint.environment if checkpoint else None, packages)
    data = load_data(identity.images, identity.noise, files, device)
    state = starting_point(identity, store, data, device, source)
    loss = loss_of(task, store, data, device)
    settings = settings_of(identity)
    trainer = Trainer(state.network, state.masks, settings, loss, capture_on(device))
    epochs = _resume(trainer, checkpoint, key_of(identity)) if checkpoint is not None else []

    def save() -> None:
        now = Checkpoint(_rows(epochs), trainer.state(), clock.environment())
        store.checkpoints.save(key_of(identity), now)

    checkpoints = _Checkpoints(save, checkpoint_every)
    result: LevelResult
    try:
        _train(task, trainer, data, epochs, checkpoints, stop, teller)
        teller.notify(Stage(name="measuring"))
        check_finite(state.network, epochs[-1].epoch)
        check_masked(identity, state)
        result = measured(identity, state, data, epochs[-1], source)
    except Diverged as error:
        result = DivergedResult(level=identity.level, epoch=error.epoch)
    weights = prunable_weights(state.network)
    return store.levels.commit(
        identity,
        result,
        clock.environment(),
        _rows(epochs),
        state.network.state_dict(),
        state.masks or dense_masks(weights),
        source,
    )


def _checkpoint(store: Store, key: str) -> Checkpoint | None:
    """The last checkpoint of a level; None if there is none, or a damaged one, so that the level
    starts over."""
    try:
        return store.checkpoints.load(key)
    except DamagedError as error:
        store.note_damage(error.path, error)
        store.quarantine(error.path)
        return None


def _resume(trainer: Trainer, checkpoint: Checkpoint, key: str) -> list[Epoch]:
    """Load a checkpoint and return its epochs. Raises WorkError if it is not of this level."""
    try:
        trainer.load_state(checkpoint.tensors)
        return [Epoch(**row) for row in checkpoint.epochs]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"the checkpoint inflight/{key} does not match its level; delete it to start over"
        raise WorkError(reason) from error


def _rows(epochs: Iterable[Epoch]) -> list[EpochRow]:
    return [asdict(epoch) for epoch in epochs]


def _train(
    task: LevelTask,
    trainer: Trainer,
    data: Data,
    epochs: list[Epoch],
    checkpoints: "_Checkpoints",
    stop: StopRequested,
    teller: Teller,
) -> None:
    """Train from the end of `epochs` to the last epoch, appending to `epochs`.

    Raises Diverged, and StoppedError after saving a checkpoint.
    """
    identity = task.identity
    reader = training_reader(identity.images, data.train)
    steps = steps_of(identity, len(data.train))
    batches = math.ceil(len(data.train) / identity.training.batch_size)
    for epoch in range(len(epochs), len(steps)):
        if stop():
            checkpoints.save()
            raise StoppedError(f"{key_of(identity)}: stopped after epoch {epoch}")
        here = Stage(
            name="epoch", number=epoch + 1, count=len(steps), batches=steps[epoch] or batches
        )
        before = epochs[-1].loss if epochs else 0.0
        watch = _ReportingWatch(
            epoch, before, is_last=epoch + 1 == len(steps), stage=here, teller=teller
        )
        draw = {"seed": identity.seed, "level": identity.level, "epoch": epoch}
        with seeded_training(**draw) if task.draws else nullcontext():
            done = trainer.train_epoch(
                reader, data.train.labels, **draw, steps=steps[epoch], watch=watch
            )
        epochs.append(done)
        kill_point("training")
        checkpoints.save_if_due()


class _Checkpoints:
    """Saves checkpoints of a level in flight, every so many seconds."""

    def __init__(self, save: Callable[[], None], seconds: float):
        self.save = save
        self._seconds = seconds
        self._saved = time.monotonic()

    def save_if_due(self) -> None:
        if time.monotonic() - self._saved >= self._seconds:
            self.save()
            self._saved = time.monotonic()


class _ReportingWatch(LossWatch):
    """Watches the losses of an epoch, and reports from time to time how many batches are done."""

    def __init__(self, epoch: int, before: float, *, is_last: bool, stage: Stage, teller: Teller):
        super().__init__(epoch, before, is_last=is_last)
        self._stage = stage
        self._teller = teller

    def look(self, batch: int, images: int, loss_sum: torch.Tensor) -> None:
        super().look(batch, images, loss_sum)
        if self._teller.due:
            self._teller.notify(self._stage.model_copy(update={"batch": batch}))


def steps_of(identity: LevelIdentity, images: int) -> list[int | None]:
    """For each epoch the number of batches to train on; None for all.

    A rewind checkpoint is level 0 stopped after `identity.iterations` batches.
    """
    if identity.iterations is None:
        return [None] * identity.training.epochs
    whole, rest = divmod(identity.iterations, math.ceil(images / identity.training.batch_size))
    return [None] * whole + [rest] * bool(rest)


def _run_table(
    task: TableTask, store: Store, files: Files, device: torch.device, teller: Teller
) -> None:
    clock = _Clock(device)
    identity = task.identity
    data = load_data(identity.images, NO_NOISE, files, device)
    teacher = load_teacher(identity.teacher, task, store, data, device)
    reader = training_reader(identity.images, data.train)

    def tell(view: int) -> None:
        if teller.due:
            teller.notify(Stage(name="view", number=view + 1, count=reader.views.count))

    logits = build_table(teacher, reader, len(data.train), identity.precision, device, tell)
    kill_point("table-built")
    store.tables.commit(identity, clock.environment(), logits)


def settings_of(identity: LevelIdentity) -> Settings:
    """The trainer's settings for a level."""
    training, pruning = identity.training, identity.pruning
    optimizer, schedule = training.optimizer, training.schedule
    return Settings(
        epochs=training.epochs,
        batch_size=training.batch_size,
        lr=optimizer.lr * (pruning.retrain.lr_scale if pruning else 1.0),
        momentum=optimizer.momentum or 0.0,
        weight_decay=optimizer.weight_decay,
        milestones=schedule.milestones or (),
        gamma=schedule.gamma or 1.0,
        precision=training.precision,
        optimizer=optimizer.kind,
        nesterov=optimizer.nesterov,
        betas=optimizer.betas or (0.0, 0.0),
        eps=optimizer.eps or 0.0,
        schedule=schedule.kind,
        warmup=schedule.warmup,
        min_lr_factor=schedule.min_lr_factor or 0.0,
        clip_norm=training.clip_norm,
    )


class _Clock:
    """Measures the wall time of a piece of work, across interruptions and machines."""

    def __init__(
        self,
        device: torch.device,
        before: Environment | None = None,
        packages: Mapping[str, str] | None = None,
    ):
        """`before` is the environment in the checkpoint that is resumed from; `packages` are the
        versions of what a user's own network imports."""
        self._device = device
        self._before = before
        self._packages = packages or {}
        self._started = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def environment(self) -> Environment:
        """Where the work has been computed so far, and for how many seconds."""
        packages = tuple(f"{name} {version}" for name, version in self._packages.items())
        here = _environment(self._device, time.perf_counter() - self._started, packages)
        if self._before is None:
            return here
        last = environment_line(self._before.model_copy(update={"begun_on": ()}))
        before = dict.fromkeys((*self._before.begun_on, last))
        before.pop(environment_line(here), None)
        seconds = here.wall_seconds + self._before.wall_seconds
        return here.model_copy(update={"wall_seconds": seconds, "begun_on": tuple(before)})


def _environment(
    device: torch.device, wall_seconds: float, packages: tuple[str, ...]
) -> Environment:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    own = kernels.in_use() if device.type == "cpu" else gpu.in_use(device)
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        dsdctl=dsdctl.__version__,
        device=f"{device.type} {name}",
        threads=torch.get_num_threads(),
        compiled_kernels=bool(own),
        kernels=own,
        packages=packages,
        wall_seconds=wall_seconds,
        gpu_peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )
