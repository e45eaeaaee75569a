"""Run one piece of work: a level (load, prune, train, measure, commit) or a teacher table."""

import errno
import hashlib
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

import dsdctl
from dsdctl.errors import BusyError, DriftError, StoppedError, WorkError
from dsdctl.fields import Model
from dsdctl.inputs import (
    MEMORY_BUDGET,
    Files,
    load_data,
    measuring_normalisation,
    spare_folder,
    training_reader,
)
from dsdctl.keys import NO_NOISE, LevelIdentity, TableIdentity, TeacherIdentity, key_of
from dsdctl.killpoints import kill_point
from dsdctl.ml.data import Data
from dsdctl.ml.device import configure
from dsdctl.ml.masks import (
    Masks,
    apply_masks,
    count_nonzero,
    dense_masks,
    prunable_weights,
    prune_by_magnitude,
)
from dsdctl.ml.measure import measure
from dsdctl.ml.models import Network, build_network
from dsdctl.ml.teacher import build_table, called, distilled, looked_up
from dsdctl.ml.train import Diverged, Epoch, LossFunction, Settings, Trainer, cross_entropy
from dsdctl.results import Diverged as DivergedResult
from dsdctl.results import Environment, FinishedLevel, LevelResult, Measured
from dsdctl.store import Store


class LevelTask(Model):
    """One level to run, and where its inputs lie on this machine."""

    kind: Literal["level"] = "level"
    identity: LevelIdentity
    dataset_path: str
    teacher_weights: str | None = None


class TableTask(Model):
    """One teacher table to build, and where its inputs lie on this machine."""

    kind: Literal["table"] = "table"
    identity: TableIdentity
    dataset_path: str
    teacher_weights: str | None = None


class Place(Model):
    """Where and how a worker computes; nothing in it changes what a level is."""

    store: str
    device: Literal["cpu", "cuda"]
    threads: int = Field(1, ge=1)
    checkpoint_every: float = Field(300.0, ge=0, description="seconds; 0 is after every epoch")
    memory_budget: int = Field(
        MEMORY_BUDGET, ge=0, description="bytes of images that a process holds in memory at most"
    )


Task = LevelTask | TableTask

StopRequested = Callable[[], bool]


def run_task(task: Task, place: Place, stop: StopRequested = lambda: False) -> FinishedLevel | None:
    """Run `task` unless its result is in the store by now; return a level's result.

    Raises BusyError where another process is at it, StoppedError once `stop` says so, and
    WorkError where a disk or a memory is full.
    """
    store = Store(Path(place.store))
    device = torch.device(place.device)
    configure(device, place.threads)
    files = Files(Path(task.dataset_path), spare_folder(store.root), place.memory_budget)
    key = key_of(task.identity)
    with _said_in_words(place), store.lock(key) as locked:
        if not locked:
            raise BusyError(f"{key}: another process is at it")
        if isinstance(task, TableTask):
            if not store.has_table(key):
                _run_table(task, store, files, device)
            return None
        level = store.level(key) or _run_level(
            task, store, files, device, place.checkpoint_every, stop
        )
        store.drop_checkpoint(key)
        return level


@contextmanager
def _said_in_words(place: Place) -> Iterator[None]:
    """Turn what machines run out of into an error that names it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise WorkError(f"the GPU's memory is full, try fewer --jobs ({reason})") from error
    except OSError as error:
        # A full disk is one thing to say, whichever file it was that did not fit.
        file = place.store if error.errno == errno.ENOSPC else error.filename
        where = f"{file}: " if file else ""
        raise WorkError(f"{where}{error.strerror or error}") from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise WorkError("the memory is full, try fewer --jobs") from error


@dataclass
class _State:
    """A network before or after training, and the masks that it has; None while dense."""

    network: Network
    masks: Masks | None


def _run_level(
    task: LevelTask,
    store: Store,
    files: Files,
    device: torch.device,
    checkpoint_every: float,
    stop: StopRequested,
) -> FinishedLevel:
    started = time.perf_counter()
    identity = task.identity
    data = load_data(identity.images, identity.noise, files, device)
    state = _state_before_training(identity, store, data, device)
    loss = _loss(task, store, data, device)
    trainer = Trainer(state.network, state.masks, _settings(identity), loss)
    epochs: list[Epoch] = []
    result: LevelResult
    try:
        _train(identity, trainer, data, store, epochs, checkpoint_every, stop)
        _check_finite(identity, state)
        _check_masked(identity, state)
        result = _measured(identity, state, data, epochs[-1])
    except Diverged as error:
        result = DivergedResult(level=identity.level, epoch=error.epoch)
    weights = prunable_weights(state.network)
    return store.commit_level(
        identity,
        result,
        _environment(device, time.perf_counter() - started),
        epochs,
        state.network.state_dict(),
        state.masks or dense_masks(weights),
    )


def _train(
    identity: LevelIdentity,
    trainer: Trainer,
    data: Data,
    store: Store,
    epochs: list[Epoch],
    checkpoint_every: float,
    stop: StopRequested,
) -> None:
    """Train to the last epoch, from the last checkpoint on, adding to `epochs`."""
    key = key_of(identity)
    checkpoint = store.checkpoint(key)
    if checkpoint is not None:
        epochs.extend(checkpoint[0])
        trainer.load_state(checkpoint[1])
    reader = training_reader(identity.images, data.train)
    saved = time.monotonic()
    for epoch in range(len(epochs), identity.training.epochs):
        if stop():
            store.save_checkpoint(key, epochs, trainer.state())
            raise StoppedError(f"{key}: stopped after epoch {epoch}")
        epochs.append(
            trainer.train_epoch(
                reader, data.train.labels, seed=identity.seed, level=identity.level, epoch=epoch
            )
        )
        kill_point("training")
        if time.monotonic() - saved >= checkpoint_every:
            store.save_checkpoint(key, epochs, trainer.state())
            saved = time.monotonic()


def _run_table(task: TableTask, store: Store, files: Files, device: torch.device) -> None:
    started = time.perf_counter()
    identity = task.identity
    data = load_data(identity.images, NO_NOISE, files, device)
    teacher = _teacher(identity.teacher, task.teacher_weights, store, data, device)
    reader = training_reader(identity.images, data.train)
    logits = build_table(teacher, reader, len(data.train), identity.precision, device)
    kill_point("table-built")
    store.commit_table(identity, _environment(device, time.perf_counter() - started), logits)


# Before training


def _state_before_training(
    identity: LevelIdentity, store: Store, data: Data, device: torch.device
) -> _State:
    """The network of a level as its training starts: initialised, or pruned from its parent."""
    if identity.parent is None or identity.pruning is None:
        return _State(_initial_network(identity, data, device), None)
    parent = _initial_network(identity, data, device)
    _load(parent, store.level_tensors(identity.parent, "weights"), f"level {identity.parent}")
    masks = _next_masks(identity, store, parent, device)
    match identity.pruning.retrain:
        case "continue":
            network = parent
        case "rewind":
            network = _initial_network(identity, data, device)
        case "reinit":
            network = _initial_network(identity, data, device, level=identity.level)
    if masks is not None:
        apply_masks(prunable_weights(network), masks)
    return _State(network, masks)


def _next_masks(
    identity: LevelIdentity, store: Store, parent: Network, device: torch.device
) -> Masks | None:
    """Prune the parent by one round; an unexpected count is an error, never passed on."""
    assert identity.parent is not None and identity.pruning is not None
    if identity.pruning.criterion == "none" or identity.pruning.fraction is None:
        return None
    weights = prunable_weights(parent)
    stored = store.level_tensors(identity.parent, "masks")
    masks = {name: stored[name].to(device) for name in weights}
    before, fraction = count_nonzero(masks), identity.pruning.fraction
    masks = prune_by_magnitude(weights, masks, fraction)
    expected = before - round(fraction * before)
    if count_nonzero(masks) != expected:
        raise DriftError(f"level {identity.level}: {count_nonzero(masks)} weights, not {expected}")
    return masks


def _initial_network(
    identity: LevelIdentity, data: Data, device: torch.device, level: int = 0
) -> Network:
    channels = data.train.images.shape[3]
    options = identity.network.model_dump()
    return _network(options, channels, data.classes, identity.seed, level).to(device)


def _network(
    options: dict[str, str | int], channels: int, classes: int, seed: int, level: int = 0
) -> Network:
    arch = str(options.pop("arch"))
    sizes = {name: int(value) for name, value in options.items()}
    return build_network(arch, channels, classes, seed=seed, level=level, **sizes)


def _load(network: Network, weights: dict[str, Tensor], source: str) -> None:
    """Load a state_dict whose names and shapes must be the network's. Raises WorkError."""
    expected = network.state_dict()
    for name in sorted(expected.keys() ^ weights.keys()):
        problem = "is missing" if name in expected else "is not one of the network's"
        raise WorkError(f"{source}: tensor {name} {problem}")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            raise WorkError(f"{source}: tensor {name} has shape {shapes}")
        if tensor.dtype != expected[name].dtype:
            raise WorkError(
                f"{source}: tensor {name} is {tensor.dtype}, not {expected[name].dtype}"
            )
        if not bool(tensor.isfinite().all()):
            raise WorkError(f"{source}: tensor {name} holds values that are not finite")
    network.load_state_dict(weights)


# Teachers


def _loss(task: LevelTask, store: Store, data: Data, device: torch.device) -> LossFunction:
    distillation = task.identity.distillation
    if distillation is None:
        return cross_entropy
    if distillation.table is not None:
        logits = looked_up(store.table(distillation.table).to(device))
    else:
        weights_file = task.teacher_weights
        logits = called(_teacher(distillation.teacher, weights_file, store, data, device))
    return distilled(logits, alpha=distillation.alpha, temperature=distillation.temperature)


def _teacher(
    teacher: TeacherIdentity,
    weights_file: str | None,
    store: Store,
    data: Data,
    device: torch.device,
) -> Network:
    """Load a teacher in full, or fail: a teacher is never left at random weights."""
    channels = data.train.images.shape[3]
    if teacher.level is not None:
        options = store.level_identity(teacher.level).network.model_dump()
        network = _network(options, channels, data.classes, seed=0)
        _load(network, store.level_tensors(teacher.level, "weights"), f"teacher {teacher.level}")
    else:
        assert weights_file is not None
        network = teacher_from_file(teacher, Path(weights_file), channels, data.classes)
    return network.to(device).eval()


def teacher_from_file(teacher: TeacherIdentity, file: Path, channels: int, classes: int) -> Network:
    """A teacher from a safetensors file. Raises WorkError where it is not the file or not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    assert teacher.network is not None
    network = _network(teacher.network.model_dump(), channels, classes, seed=0)
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != teacher.weights:
            raise WorkError(f"teacher {file}: changed since the run was planned")
        _load(network, load(content), f"teacher {file}")
    except OSError as error:
        raise WorkError(f"teacher {file}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise WorkError(f"teacher {file}: not a whole safetensors file ({error})") from error
    return network


# After training


def _measured(identity: LevelIdentity, state: _State, data: Data, last: Epoch) -> Measured:
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


def _check_finite(identity: LevelIdentity, state: _State) -> None:
    """The last step may diverge too, and no loss is computed after it. Raises Diverged."""
    if not all(bool(tensor.isfinite().all()) for tensor in state.network.state_dict().values()):
        raise Diverged(identity.training.epochs - 1)


def _check_masked(identity: LevelIdentity, state: _State) -> None:
    """A removed weight that moved is an error, never passed on."""
    weights = prunable_weights(state.network)
    for name, mask in (state.masks or {}).items():
        if bool(weights[name].detach()[~mask].any()):
            raise DriftError(f"level {identity.level}: removed weights of {name} are not zero")


def _learning_distance(identity: LevelIdentity, state: _State, data: Data) -> float:
    """l2 distance of the kept Conv2d and Linear weights from their initialisation."""
    weights = prunable_weights(state.network)
    reinit = identity.pruning is not None and identity.pruning.retrain == "reinit"
    level = identity.level if reinit else 0
    device = next(iter(weights.values())).device
    initial = prunable_weights(_initial_network(identity, data, device, level=level))
    squares = 0.0
    for name, weight in weights.items():
        difference = (weight - initial[name]).detach().double()
        if state.masks is not None:
            difference = difference * state.masks[name]
        squares += float(difference.square().sum())
    return math.sqrt(squares)


def _settings(identity: LevelIdentity) -> Settings:
    training = identity.training
    return Settings(
        epochs=training.epochs,
        batch_size=training.batch_size,
        lr=training.optimizer.lr,
        momentum=training.optimizer.momentum,
        weight_decay=training.optimizer.weight_decay,
        milestones=training.schedule.milestones,
        gamma=training.schedule.gamma,
        precision=training.precision,
    )


def _environment(device: torch.device, wall_seconds: float) -> Environment:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        dsdctl=dsdctl.__version__,
        device=f"{device.type} {name}",
        threads=torch.get_num_threads(),
        wall_seconds=wall_seconds,
    )
