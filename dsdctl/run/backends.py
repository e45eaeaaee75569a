"""Where a plan runs: which device there is, how much runs at once, and the engine that runs it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from dsdctl.run.engines.base import Engine
from dsdctl.run.engines.local import THREADS, LocalEngine
from dsdctl.system.devices import Device, DeviceWish, choose_device, default_jobs
from dsdctl.worker.tasks import WorkerConfig

if TYPE_CHECKING:
    from dsdctl.run.engines.ray import RayCluster


class Backend(Protocol):
    """A place where a plan can be run."""

    prepares_data: ClassVar[bool]
    """Whether data sets are made ready there, not before."""

    def device(self, wish: DeviceWish) -> Device:
        """Resolve `auto`. Raises InputError where CUDA is asked for and absent."""
        ...

    def slots(self, device: Device, threads: int) -> int:
        """How many tasks run at once."""
        ...

    def warning(self, device: Device, threads: int) -> str | None:
        """What a user is to be warned of before a run that asks for so much."""
        ...

    def engine(self, config: WorkerConfig, jobs: int, grace: float) -> Engine: ...


@dataclass(frozen=True)
class LocalBackend:
    """Processes of this machine, at most `jobs`, if that is said."""

    jobs: int | None = None
    prepares_data: ClassVar[bool] = False

    def device(self, wish: DeviceWish) -> Device:
        return choose_device(wish)

    def slots(self, device: Device, threads: int) -> int:  # noqa: ARG002
        return self.jobs or default_jobs(device)

    def warning(self, device: Device, threads: int) -> str | None:  # noqa: ARG002
        return None

    def engine(self, config: WorkerConfig, jobs: int, grace: float) -> Engine:
        return LocalEngine(config, jobs, grace, tasks_in_a_process(config.device, jobs))


def tasks_in_a_process(device: Device, jobs: int) -> int:
    """On a GPU as many as may be: the kernels of its processes take turns, those of the threads of
    one run at the same time."""
    return min(jobs, THREADS) if device == "cuda" else 1


@dataclass(frozen=True)
class RayBackend:
    """A Ray cluster, whose nodes prepare what they read: it may lie on their disks alone."""

    cluster: "RayCluster"
    prepares_data: ClassVar[bool] = True

    def device(self, wish: DeviceWish) -> Device:
        return self.cluster.choose_device(wish)

    def slots(self, device: Device, threads: int) -> int:
        return self.cluster.slots(device, threads)

    def warning(self, device: Device, threads: int) -> str | None:
        if self.cluster.has_room(device, threads):
            return None
        needed = f"{threads} CPUs" + (" and a GPU" if device == "cuda" else "")
        return f"no node of {self.cluster} has {needed}, which a level takes; waiting for one"

    def engine(self, config: WorkerConfig, jobs: int, grace: float) -> Engine:  # noqa: ARG002
        from dsdctl.run.engines.ray import RayEngine

        return RayEngine(self.cluster, config, grace)


@contextmanager
def ray_backend(address: str | None, jobs: int | None, threads: int) -> Iterator[RayBackend]:
    """Connect to a cluster, or start one, which ends with the context.

    Raises InputError where Ray is not installed or no cluster answers, WorkError where none starts.
    """
    from dsdctl.run.engines.ray import RayCluster

    with closing(RayCluster(address, jobs, threads)) as cluster:
        yield RayBackend(cluster)
