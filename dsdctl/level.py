"""Run one piece of work: a level (load, prune, train, measure, commit) or a teacher table."""

import functools
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
from dsdctl.errors import BusyError, DriftError, StoppedError, WorkError, in_words
from dsdctl.keys import (
    ImagesIdentity,
    LevelIdentity,
    NoiseIdentity,
    TableIdentity,
    TeacherIdentity,
    key_of,
)
from dsdctl.killpoints import kill_point
from dsdctl.ml.data import (
    Data,
    Normalisation,
    Source,
    Split,
    ViewReader,
    Views,
    load_cifar,
    load_digits,
    load_npz,
    split_source,
)
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
from dsdctl.results import Environment, FinishedLevel, LevelResult, Measured, environment_line
from dsdctl.spec import HoldOut, Model
from dsdctl.store import Checkpoint, Store


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
    checkpoint_every: float = Field(
        300.0, ge=0, allow_inf_nan=True, description="seconds; 0 is after every epoch"
    )


Task = LevelTask | TableTask

StopRequested = Callable[[], bool]


@dataclass(frozen=True)
class Done:
    """What came of a task: a level's result, None of a table; and the damage that was met with."""

    level: FinishedLevel | None
    damage: tuple[str, ...] = ()


def run_task(task: Task, place: Place, stop: StopRequested = lambda: False) -> Done:
    """Run `task` unless its result, with a level's weights, is in the store by now.

    Raises BusyError where another process is at it, StoppedError once `stop` says so, and
    WorkError where a disk or a memory is full.
    """
    store = Store(Path(place.store))
    device = torch.device(place.device)
    configure(device, place.threads)
    key = key_of(task.identity)
    with _said_in_words(place), store.lock(key) as locked:
        if not locked:
            raise BusyError(f"{key}: another process is at it")
        if isinstance(task, TableTask):
            if not store.has_table(key):
                _run_table(task, store, device)
            return Done(None, tuple(store.damage))
        level = store.level(key)
        if level is None or store.lacks_weights(key):
            level = _run_level(task, store, device, place.checkpoint_every, stop)
        store.drop_checkpoint(key)
        return Done(level, tuple(store.damage))


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


@dataclass
class _State:
    """A network before or after training, and the masks that it has; None while dense."""

    network: Network
    masks: Masks | None


def _run_level(
    task: LevelTask,
    store: Store,
    device: torch.device,
    checkpoint_every: float,
    stop: StopRequested,
) -> FinishedLevel:
    identity = task.identity
    checkpoint = store.checkpoint(key_of(identity))
    clock = _Clock(device, checkpoint.environment if checkpoint else None)
    data = load_data(identity.images, identity.noise, Path(task.dataset_path), device)
    state = _state_before_training(identity, store, data, device)
    loss = _loss(task, store, data, device)
    trainer = Trainer(state.network, state.masks, _settings(identity), loss)
    epochs: list[Epoch] = []
    if checkpoint is not None:
        epochs.extend(checkpoint.epochs)
        trainer.load_state(checkpoint.tensors)

    def keep() -> None:
        now = Checkpoint(epochs, trainer.state(), clock.environment())
        store.save_checkpoint(key_of(identity), now)

    result: LevelResult
    try:
        _train(identity, trainer, data, epochs, keep, checkpoint_every, stop)
        _check_finite(identity, state)
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
    reader = _reader(identity.images, data.train)
    saved = time.monotonic()
    for epoch in range(len(epochs), identity.training.epochs):
        if stop():
            keep()
            raise StoppedError(f"{key_of(identity)}: stopped after epoch {epoch}")
        epochs.append(
            trainer.train_epoch(
                reader, data.train.labels, seed=identity.seed, level=identity.level, epoch=epoch
            )
        )
        kill_point("training")
        if time.monotonic() - saved >= checkpoint_every:
            keep()
            saved = time.monotonic()


def _run_table(task: TableTask, store: Store, device: torch.device) -> None:
    clock = _Clock(device)
    identity = task.identity
    data = load_data(identity.images, NO_NOISE, Path(task.dataset_path), device)
    teacher = _teacher(identity.teacher, task.teacher_weights, store, data, device)
    reader = _reader(identity.images, data.train)
    logits = build_table(teacher, reader, len(data.train), identity.precision, device)
    kill_point("table-built")
    store.commit_table(identity, clock.environment(), logits)


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


# Data

NO_NOISE = NoiseIdentity(kind="symmetric", rate=0.0, seed=0)


@functools.lru_cache(maxsize=2)
def load_data(
    images: ImagesIdentity, noise: NoiseIdentity, path: Path, device: torch.device
) -> Data:
    """Load, split and flip labels; kept, since a worker runs many levels on the same data."""
    source = _load_source(images, path)
    held_out = images.validation if isinstance(images.validation, HoldOut) else None
    data = split_source(
        source,
        split_seed=images.split_seed,
        test_fraction=images.test_fraction,
        validation_fraction=held_out.fraction if held_out else None,
        validation_noisy=held_out is not None and held_out.labels == "noisy",
        noise_rate=noise.rate,
        noise_seed=noise.seed,
    )
    test = _to(data.test, device)
    validation = test if data.validation is data.test else _to(data.validation, device)
    clean_labels = data.clean_labels.to(device)
    return Data(_to(data.train, device), clean_labels, validation, test, data.classes)


def _to(split: Split, device: torch.device) -> Split:
    return Split(split.images.to(device), split.labels.to(device))


LOADERS: dict[str, Callable[[Path, str | None], Source]] = {
    "digits": lambda _path, _content: load_digits(),
    "cifar10": lambda path, _content: load_cifar("cifar10", path),
    "cifar100": lambda path, _content: load_cifar("cifar100", path),
    "npz": lambda path, content: load_npz(path, str(content)),
}


def _load_source(images: ImagesIdentity, path: Path) -> Source:
    name = images.dataset.rsplit("-", 1)[0]
    return LOADERS[name](path, images.content)


def _reader(images: ImagesIdentity, train: Split) -> ViewReader:
    normalisation = Normalisation(images.normalize.mean, images.normalize.std)
    return ViewReader(train.images, normalisation, Views(images.augment.flip, images.augment.crop))


# After training


def _measured(identity: LevelIdentity, state: _State, data: Data, last: Epoch) -> Measured:
    images = identity.images
    normalisation = Normalisation(images.normalize.mean, images.normalize.std)
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


class _Clock:
    """Counts the seconds of a piece of work, and knows where it was begun if that was elsewhere."""

    def __init__(self, device: torch.device, before: Environment | None = None):
        self._device = device
        self._before = before
        self._started = time.perf_counter()

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
    return Environment(
        python=platform.python_version(),
        torch=torch.__version__,
        dsdctl=dsdctl.__version__,
        device=f"{device.type} {name}",
        threads=torch.get_num_threads(),
        wall_seconds=wall_seconds,
    )
