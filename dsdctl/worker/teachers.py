"""Who teaches a level: a network called for each batch, or its cached logits."""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dsdctl.errors import WorkError
from dsdctl.keys import TeacherIdentity
from dsdctl.ml.data import Data
from dsdctl.ml.networks.build import Network
from dsdctl.ml.teacher import called, distilled, looked_up
from dsdctl.ml.train import LossFunction, cross_entropy
from dsdctl.store.store import Store
from dsdctl.worker.starting_point import load_weights, new_network
from dsdctl.worker.tasks import LevelTask


def loss_of(task: LevelTask, store: Store, data: Data, device: torch.device) -> LossFunction:
    """What a level is trained on: its labels and, distilled, its teacher's logits."""
    distillation = task.identity.distillation
    smoothing = task.identity.training.label_smoothing
    if distillation is None:
        return functools.partial(cross_entropy, label_smoothing=smoothing)
    if distillation.table is not None:
        logits = looked_up(_table(store, distillation.table, data).to(device))
    else:
        weights_file = task.teacher_weights
        logits = called(load_teacher(distillation.teacher, weights_file, store, data, device))
    return distilled(
        logits,
        alpha=distillation.alpha,
        temperature=distillation.temperature,
        label_smoothing=smoothing,
    )


def _table(store: Store, key: str, data: Data) -> Tensor:
    """A stored table (N, V, K), which must be of these images and classes. Raises WorkError."""
    table = store.tables.logits(key)
    if table.ndim != 3 or (len(table), table.shape[2]) != (len(data.train), data.classes):
        raise WorkError(f"table {key}: its shape {tuple(table.shape)} is not that of the images")
    return table


def load_teacher(
    teacher: TeacherIdentity,
    weights_file: str | None,
    store: Store,
    data: Data,
    device: torch.device,
) -> Network:
    """Load a teacher in full, or fail: a teacher is never left at random weights."""
    shape = data.train.images.shape[1:]
    if teacher.level is not None:
        choice = store.levels.identity(teacher.level).network
        network = new_network(choice, shape, data.classes)
        weights = store.levels.tensors(teacher.level, "weights")
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
