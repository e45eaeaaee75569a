"""How and where a plan is run, and what that leaves."""

from dataclasses import dataclass
from pathlib import Path

from dsdctl.cost.macs import MacCache
from dsdctl.plan.progress import Progress
from dsdctl.run.backends import Backend
from dsdctl.run.engines.local import GRACE_SECONDS
from dsdctl.system.devices import Device


@dataclass(frozen=True)
class RunOptions:
    """How and where to run; nothing here changes what a level is."""

    store: Path
    backend: Backend
    device: Device
    jobs: int
    threads: int
    checkpoint_every: float
    fail_fast: bool
    memory_gib: float
    verbose: bool = False
    only: tuple[str, ...] = ()
    """Keys of the trajectories to run, if not all. Their comparison is left to who runs all."""
    after_jobs: bool = False
    """Whether jobs ran what is there, one for each trajectory."""
    grace: float = GRACE_SECONDS
    """Seconds that levels in flight may take to a checkpoint when the run is to end."""


@dataclass(frozen=True)
class Finished:
    """What a run leaves."""

    progress: Progress
    macs: MacCache
    failures: dict[str, str]
    """Why work failed, by trajectory."""
    compared: bool
    """Whether there is a comparison that was not there before."""
