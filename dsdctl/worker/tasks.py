"""What an engine hands to a worker. Nothing here imports torch."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from dsdctl.data.prepare import MEMORY_BUDGET
from dsdctl.keys import LevelIdentity, TableIdentity
from dsdctl.own.source import SourcePlace
from dsdctl.spec.fields import Model
from dsdctl.system.devices import Device


class LevelTask(Model):
    """One level to run, and where its inputs are on this machine.

    `teacher_weights` is the path of a teacher's weights file, if it is read from one. `source` and
    `teacher_source` are the code of the networks, if they are a user's own; `draws` is whether the
    trained one may draw random numbers.
    """

    kind: Literal["level"] = "level"
    identity: LevelIdentity
    dataset_path: str
    teacher_weights: str | None = None
    source: SourcePlace | None = None
    draws: bool = False
    teacher_source: SourcePlace | None = None


class TableTask(Model):
    """One teacher table to build, and where its inputs are on this machine."""

    kind: Literal["table"] = "table"
    identity: TableIdentity
    dataset_path: str
    teacher_weights: str | None = None
    teacher_source: SourcePlace | None = None


class WorkerConfig(Model):
    """Where and how a worker computes; nothing in it changes what a level is."""

    store: str
    device: Device
    threads: int = Field(1, ge=1)
    checkpoint_every: float = Field(
        300.0, ge=0, allow_inf_nan=True, description="seconds; 0 is after every epoch"
    )
    memory_budget: int = Field(
        MEMORY_BUDGET, ge=0, description="bytes of images that a process holds in memory at most"
    )


Task = LevelTask | TableTask

StopRequested = Callable[[], bool]
