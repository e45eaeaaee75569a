"""What a rehearsal's process is given, and what comes back. Nothing here imports torch."""

from dsdctl.keys import LevelIdentity
from dsdctl.own.source import SourcePlace
from dsdctl.spec.distillation import DistillationLoss
from dsdctl.spec.fields import Model
from dsdctl.spec.network import Network
from dsdctl.system.devices import Device


class Teaching(Model):
    """How a rehearsed student is distilled, from random logits.

    Those of a random `network` that is called for every batch, or without one those of a table.
    `source` is its code, if it is a user's own.
    """

    loss: DistillationLoss
    network: Network | None
    source: SourcePlace | None = None


class Job(Model):
    """A training to be rehearsed: level 0 of one trajectory, as far as `identity.iterations`.

    `images`, `classes` and `shape` (H, W, C) are those of the training images. Without a
    `dataset_path` they are random. `source` is the code of a user's own network.
    """

    identity: LevelIdentity
    teaching: Teaching | None
    images: int
    classes: int
    shape: tuple[int, int, int]
    dataset_path: str | None
    spare: str
    device: Device
    threads: int
    source: SourcePlace | None = None
