"""What a rehearsal's process is given. Nothing here imports torch."""

from dsdctl.keys import LevelIdentity
from dsdctl.own.source import SourcePlace
from dsdctl.spec.distillation import DistillationLoss
from dsdctl.spec.fields import Model
from dsdctl.spec.network import Network
from dsdctl.system.devices import Device


class Teaching(Model):
    """How a rehearsed student is distilled: from a random teacher or from random logits.

    A teacher `network` with random weights is called for every batch; without one, a table of
    random logits stands for cached ones. `source` is its code, if it is a user's own.
    """

    loss: DistillationLoss
    network: Network | None
    source: SourcePlace | None = None


class Job(Model):
    """A training run to rehearse: level 0 of one trajectory, up to `identity.iterations` batches.

    `images` counts the training images, `shape` is (H, W, C). Without a `dataset_path` images are
    random. `spare` is the folder for prepared images if the data's own cannot be written. `source`
    is the code of a user's own network.
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
