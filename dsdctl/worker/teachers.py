"""The teacher of a level: a network called for each batch, or its cached logits."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dsdctl.errors import WorkError
from dsdctl.keys import TeacherIdentity
from dsdctl.ml.data import Data
from dsdctl.ml.teacher import cached_logits, direct_logits
from dsdctl.ml.train import LossFunction
from dsdctl.own.source import Source
from dsdctl.store.store import Store
from dsdctl.worker.losses import distillation_loss_of, label_loss_of
from dsdctl.worker.networks import new_network, source_of
from dsdctl.worker.starting_point import load_weights, stored_network
from dsdctl.worker.tasks import LevelTask, Task


def loss_of(task: LevelTask, store: Store, data: Data, device: torch.device) -> LossFunction:
    """The loss function of a level, distilled from its teacher if it has one."""
    distillation = task.identity.distillation
    training = task.identity.training
    if distillation is None:
        return label_loss_of(training)
    if distillation.table is not None:
        logits = cached_logits(_table(store, distillation.table, data).to(device))
    else:
        logits = direct_logits(load_teacher(distillation.teacher, task, store, data, device))
    return distillation_loss_of(training, distillation, logits)


def _table(store: Store, key: str, data: Data) -> Tensor:
    """A stored teacher table (N, V, K). Raises WorkError if N or K are not those of the data."""
    table = store.tables.logits(key)
    if table.ndim != 3 or (len(table), table.shape[2]) != (len(data.train), data.classes):
        raise WorkError(f"table {key}: its shape {tuple(table.shape)} is not that of the images")
    return table


def load_teacher(
    teacher: TeacherIdentity, task: Task, store: Store, data: Data, device: torch.device
) -> nn.Module:
    """Load a teacher with all its weights, or fail: none is ever left at random weights.

    A user's own network is built by the code kept with its level or, for a weights file, by code
    read again. Raises DamagedError and WorkError.
    """
    shape = data.train.images.shape[1:]
    if teacher.level is not None:
        name = f"teacher {teacher.level}"
        network = stored_network(store, teacher.level, shape, data.classes, name)
    else:
        assert teacher.network is not None and task.teacher_weights is not None
        source = source_of(teacher.network, task.teacher_source)
        file = Path(task.teacher_weights)
        network = teacher_from_file(teacher, file, shape, data.classes, source)
    return network.to(device).eval()


def teacher_from_file(
    teacher: TeacherIdentity,
    file: Path,
    shape: Sequence[int],
    classes: int,
    source: Source | None = None,
) -> nn.Module:
    """A teacher from a safetensors file, for images of `shape` (H, W, C).

    Raises WorkError if the file has changed since the run was planned, or does not fit the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    assert teacher.network is not None
    network = new_network(teacher.network, shape, classes, source=source)
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
