"""Run one piece of work: a level (load, prune, train, measure, commit) or a teacher table."""

import functools
import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

import dsdctl
from dsdctl.errors import BusyError, DriftError, StoppedError, WorkError, in_words
from dsdctl.inputs import (
    Files,
    load_data,
    measuring_normalisation,
    training_reader,
)
from dsdctl.keys import NO_NOISE, LevelIdentity, TeacherIdentity, key_of
from dsdctl.killpoints import kill_point
from dsdctl.ml import gpu, kernels
from dsdctl.ml.data import Data
from dsdctl.ml.device import configure, own_stream
from dsdctl.ml.divergence import Diverged, check_finite
from dsdctl.ml.graph import capture_on
from dsdctl.ml.masks import count_nonzero, dense_masks, prunable_weights
from dsdctl.ml.measure import measure
from dsdctl.ml.models import Network
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.teacher import build_table, called, distilled, looked_up
from dsdctl.ml.train import Epoch, LossFunction, Trainer, cross_entropy
from dsdctl.results import Diverged as DivergedResult
from dsdctl.results import Environment, FinishedLevel, LevelResult, Measured, environment_line
from dsdctl.starting_point import (
    State,
    initial_network,
    load_weights,
    new_network,
    starting_point,
)
from dsdctl.store import Checkpoint, Store
from dsdctl.tasks import Done, LevelTask, Place, StopRequested, TableTask, Task, spare_folder


def run_task(task: Task, place: Place, stop: StopRequested = lambda: False) -> Done:
    """Run `task` unless its result, with a level's weights, is in the store by now.

    A teacher table and a state to rewind to yield none.
    Raises BusyError where another process is at it, StoppedError once `stop` says so, and
    WorkError where a disk or a memory is full.
    """
    store = Store(Path(place.store))
    device = torch.device(place.device)
    configure(device, place.threads)
    files = Files(Path(task.dataset_path), spare_folder(store.root), place.memory_budget)
    key = key_of(task.identity)
    with _said_in_words(place), own_stream(device), store.lock(key) as locked:
        if not locked:
            raise BusyError(f"{key}: another process is at it")
        if isinstance(task, TableTask):
            if not store.has_table(key):
                _run_table(task, store, files, device)
            return Done(None, tuple(store.damage))
        level = store.level(key)
        if level is None or store.lacks_weights(key):
            level = _run_level(task, store, files, device, place.checkpoint_every, stop)
        store.drop_checkpoint(key)
        return Done(level if task.identity.iterations is None else None, tuple(store.damage))


@contextmanager
def _said_in_words(place: Place) -> Iterator[None]:
    """Turn what machines run out of into an error that names it."""
    try:
        yield
    except Exception as error:
        words = None if isinstance(error, WorkError) else in_words(error, full=place.store)
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
) -> FinishedLevel:
    identity = task.identity
    checkpoint = store.checkpoint(key_of(identity))
    clock = _Clock(device, checkpoint.environment if checkpoint else None)
    data = load_data(identity.images, identity.noise, files, device)
    state = starting_point(identity, store, data, device)
    loss = _loss(task, store, data, device)
    settings = settings_of(identity)
    trainer = Trainer(state.network, state.masks, settings, loss, capture_on(device))
    epochs: list[Epoch] = []
    if checkpoint is not None:
        epochs.extend(checkpoint.epochs)
        _load_state(trainer, checkpoint, key_of(identity))

    def keep() -> None:
        now = Checkpoint(epochs, trainer.state(), clock.environment())
        store.save_checkpoint(key_of(identity), now)

    result: LevelResult
    try:
        _train(identity, trainer, data, epochs, keep, checkpoint_every, stop)
        check_finite(state.network, epochs[-1].epoch)
        _check_masked(identity, state)
        result = _measured(identity, state, data, epochs[-1])
    except Diverged as error:
        result = DivergedResult(level=identity.level, epoch=error.epoch)
    weights = prunable_weights(state.network)
    return store.commit_level(
        identity,
        result,
        clock.environment(),
        epochs,
        state.network.state_dict(),
        state.masks or dense_masks(weights),
    )


def _load_state(trainer: Trainer, checkpoint: Checkpoint, key: str) -> None:
    """Go on from a checkpoint. Raises WorkError where its tensors are others."""
    try:
        trainer.load_state(checkpoint.tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = f"the checkpoint inflight/{key} does not fit its level; delete it to start over"
        raise WorkError(reason) from error


def _train(
    identity: LevelIdentity,
    trainer: Trainer,
    data: Data,
    epochs: list[Epoch],
    keep: Callable[[], None],
    checkpoint_every: float,
    stop: StopRequested,
) -> None:
    """Train from the end of `epochs` to the last epoch, adding to them; `keep` a checkpoint."""
    reader = training_reader(identity.images, data.train)
    saved = time.monotonic()
    steps = steps_of(identity, len(data.train))
    for epoch in range(len(epochs), len(steps)):
        if stop():
            keep()
            raise StoppedError(f"{key_of(identity)}: stopped after epoch {epoch}")
        epochs.append(
            trainer.train_epoch(
                reader,
                data.train.labels,
                seed=identity.seed,
                level=identity.level,
                epoch=epoch,
                steps=steps[epoch],
            )
        )
        kill_point("training")
        if time.monotonic() - saved >= checkpoint_every:
            keep()
            saved = time.monotonic()


def steps_of(identity: LevelIdentity, images: int) -> list[int | None]:
    """The batches that each epoch trains on, None for all of them.

    A state to rewind to ends after `identity.iterations` of them, as if level 0 stopped there.
    """
    if identity.iterations is None:
        return [None] * identity.training.epochs
    whole, rest = divmod(identity.iterations, math.ceil(images / identity.training.batch_size))
    return [None] * whole + [rest] * bool(rest)


def _run_table(task: TableTask, store: Store, files: Files, device: torch.device) -> None:
    clock = _Clock(device)
    identity = task.identity
    data = load_data(identity.images, NO_NOISE, files, device)
    teacher = _teacher(identity.teacher, task.teacher_weights, store, data, device)
    reader = training_reader(identity.images, data.train)
    logits = build_table(teacher, reader, len(data.train), identity.precision, device)
    kill_point("table-built")
    store.commit_table(identity, clock.environment(), logits)


# Teachers


def _loss(task: LevelTask, store: Store, data: Data, device: torch.device) -> LossFunction:
    distillation = task.identity.distillation
    smoothing = task.identity.training.label_smoothing
    if distillation is None:
        return functools.partial(cross_entropy, label_smoothing=smoothing)
    if distillation.table is not None:
        logits = looked_up(_table(store, distillation.table, data).to(device))
    else:
        weights_file = task.teacher_weights
        logits = called(_teacher(distillation.teacher, weights_file, store, data, device))
    return distilled(
        logits,
        alpha=distillation.alpha,
        temperature=distillation.temperature,
        label_smoothing=smoothing,
    )


def _table(store: Store, key: str, data: Data) -> Tensor:
    """A stored table (N, V, K), which must be of these images and classes. Raises WorkError."""
    table = store.table(key)
    if table.ndim != 3 or (len(table), table.shape[2]) != (len(data.train), data.classes):
        raise WorkError(f"table {key}: its shape {tuple(table.shape)} is not that of the images")
    return table


def _teacher(
    teacher: TeacherIdentity,
    weights_file: str | None,
    store: Store,
    data: Data,
    device: torch.device,
) -> Network:
    """Load a teacher in full, or fail: a teacher is never left at random weights."""
    shape = data.train.images.shape[1:]
    if teacher.level is not None:
        choice = store.level_identity(teacher.level).network
        network = new_network(choice, shape, data.classes)
        weights = store.level_tensors(teacher.level, "weights")
        load_weights(network, weights, f"teacher {teacher.level}")
    else:
        assert weights_file is not None
        network = teacher_from_file(teacher, Path(weights_file), shape, data.classes)
    return network.to(device).eval()


def teacher_from_file(
    teacher: TeacherIdentity, file: Path, shape: Sequence[int], classes: int
) -> Network:
    """A teacher from a safetensors file, for images of `shape` (H, W, C).

    Raises WorkError where it is not the file that was planned with, or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    assert teacher.network is not None
    network = new_network(teacher.network, shape, classes)
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != teacher.weights:
            raise WorkError(f"teacher {file}: changed since the run was planned")
        load_weights(network, load(content), f"teacher {file}")
    except OSError as error:
        raise WorkError(f"teacher {file}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise WorkError(f"teacher {file}: not a whole safetensors file ({error})") from error
    return network


# After training


def _measured(identity: LevelIdentity, state: State, data: Data, last: Epoch) -> Measured:
    normalisation = measuring_normalisation(identity.images)
    measurement = measure(state.network, data, normalisation, identity.training.precision)
    weights = prunable_weights(state.network)
    masks = state.masks or dense_masks(weights)
    density = {name: int(mask.count_nonzero()) / mask.numel() for name, mask in masks.items()}
    total = sum(mask.numel() for mask in masks.values())
    nonzero = count_nonzero(masks)
    return Measured(
        level=identity.level,
        train_loss=last.loss,
        total_weights=total,
        nonzero_weights=nonzero,
        sparsity=1 - nonzero / total,
        density_per_layer=density,
        learning_distance=_learning_distance(identity, state, data),
        warnings=tuple(f"{name} has no weight left" for name, d in density.items() if d == 0),
        **vars(measurement),
    )


def _check_masked(identity: LevelIdentity, state: State) -> None:
    """A removed weight that moved is an error, never passed on."""
    weights = prunable_weights(state.network)
    for name, mask in (state.masks or {}).items():
        if bool(weights[name].detach()[~mask].any()):
            raise DriftError(f"level {identity.level}: removed weights of {name} are not zero")


def _learning_distance(identity: LevelIdentity, state: State, data: Data) -> float:
    """l2 distance of the kept Conv2d and Linear weights from their initialisation."""
    weights = prunable_weights(state.network)
    reinit = identity.pruning is not None and identity.pruning.retrain.mode == "reinit"
    level = identity.level if reinit else 0
    device = next(iter(weights.values())).device
    initial = prunable_weights(initial_network(identity, data, device, level=level))
    squares = 0.0
    for name, weight in weights.items():
        difference = (weight - initial[name]).detach().double()
        if state.masks is not None:
            difference = difference * state.masks[name]
        squares += float(difference.square().sum())
    return math.sqrt(squares)


def settings_of(identity: LevelIdentity) -> Settings:
    """How a level is trained."""
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
    """Counts the seconds of a piece of work, and knows where it was begun if that was elsewhere."""

    def __init__(self, device: torch.device, before: Environment | None = None):
        self._device = device
        self._before = before
        self._started = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def environment(self) -> Environment:
        """Where it has been computed, and for how long, by now."""
        here = _environment(self._device, time.perf_counter() - self._started)
        if self._before is None:
            return here
        last = environment_line(self._before.model_copy(update={"begun_on": ()}))
        before = dict.fromkeys((*self._before.begun_on, last))
        before.pop(environment_line(here), None)
        seconds = here.wall_seconds + self._before.wall_seconds
        return here.model_copy(update={"wall_seconds": seconds, "begun_on": tuple(before)})


def _environment(device: torch.device, wall_seconds: float) -> Environment:
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
        wall_seconds=wall_seconds,
        gpu_peak_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    )
