"""cluster.yaml: what a Slurm cluster wants to know of a job. Nothing in it changes a result."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from dsdctl.spec.fields import Model, Text
from dsdctl.spec.problems import validate
from dsdctl.spec.yaml import read_document

_TIME = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):[0-5]\d")


def minutes_of(time: int | str) -> int:
    """Minutes of `[days-]hours:minutes:seconds`, seconds cut, or of a number of minutes.

    Raises ValueError where it is neither, or less than a minute.
    """
    match = None if isinstance(time, int) else _TIME.fullmatch(time)
    if match is not None:
        days, hours, minutes = (int(part or 0) for part in match.groups())
        total = (24 * days + hours) * 60 + minutes
    else:
        total = time if isinstance(time, int) else 0
    if total < 1:
        raise ValueError(
            f'is {time} (allowed: minutes, or "[days-]hours:minutes:seconds"; at least a minute)'
        )
    return total


def _checked_time(time: int | str) -> int | str:
    minutes_of(time)
    return time


class Cluster(Model):
    """How `dsdctl run --engine slurm` submits its jobs, each of them a trajectory."""

    partition: Text | None = Field(None, description="as for sbatch")
    account: Text | None = Field(None, description="as for sbatch")
    qos: Text | None = Field(None, description="as for sbatch")
    constraint: Text | None = Field(None, description="as for sbatch")
    gres: Text | None = Field(None, description="as for sbatch: gpu:1")
    cpus: int = Field(1, ge=1, description="cores per job")
    memory_gib: float | None = Field(None, gt=0, description="memory per job")
    time: Annotated[int | str, AfterValidator(_checked_time)] = Field(
        60, description="of a job until it is requeued: minutes or `[days-]hours:minutes:seconds`"
    )
    warning_seconds: int = Field(
        120,
        ge=1,
        description="left for the last checkpoint: longer than an epoch, shorter than `time`",
    )
    requeues: int = Field(50, ge=0, description="how often a job may run out of time")
    at_once: int = Field(256, ge=1, description="jobs of an array that run at once")
    setup: tuple[Text, ...] = Field((), description="shell lines that run first: module load cuda")

    @model_validator(mode="after")
    def _time_before_the_warning(self) -> Self:
        seconds = 60 * minutes_of(self.time)
        if self.warning_seconds >= seconds:
            raise ValueError(
                f"`warning_seconds` is {self.warning_seconds}, so that no work is done before the "
                f"warning (allowed: less than `time`, {seconds})"
            )
        return self


def read_cluster(file: Path) -> Cluster:
    """Read a cluster.yaml. Raises InputError with every problem at once."""
    return validate(Cluster, read_document(file))
