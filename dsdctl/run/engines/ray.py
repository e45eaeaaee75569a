"""Work on a Ray cluster: each piece a task of Ray's, wherever in the cluster there is a device.

Ray finds the place and says what was lost with a node; the scheduler has that run again, from its
last checkpoint. The store lies on a path that all nodes share, dsdctl is installed on each. Where
there is no cluster, one is started on this machine for as long as the run takes.
"""

import io
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import dsdctl
from dsdctl.errors import InputError, WorkError
from dsdctl.run.engines.local import GRACE_SECONDS
from dsdctl.run.log import log
from dsdctl.system.devices import KERNELS_VARIABLE, Device, DeviceWish, resolve_device, usable_cores
from dsdctl.worker.process import attempt
from dsdctl.worker.task_result import TaskResult
from dsdctl.worker.tasks import Task, WorkerConfig

try:
    import ray
    from ray import exceptions
except ImportError as error:
    raise InputError("--engine ray: needs Ray (pip install 'dsdctl[ray]')") from error

POLL_SECONDS = 1.0
"""How often to look whether nodes have come or gone."""

HEAD_SECONDS = 10.0
"""How long the head of a cluster may be out of reach before the run gives up on it."""


OBJECT_STORE_BYTES = 100 * 2**20
"""Memory of a cluster of one's own for what tasks are given and result, which is small."""


class RayCluster:
    """A connection to a cluster that runs already, or to one of its own on this machine."""

    def __init__(self, address: str | None, jobs: int | None, threads: int):
        """`jobs` trajectories share a GPU; on CPUs that many run at once in the whole cluster.

        Without an address it is the cluster that `ray start` made on this machine, else one that
        is started here, with cores for `jobs` tasks of so many `threads`.

        Raises InputError where no cluster answers at `address`, WorkError where none starts.
        """
        self.address = address or _started_here()
        self.jobs = jobs
        self._folder: Path | None = None
        with _signals_kept():
            if self.address is not None:
                _connect(self.address)
            else:
                self._start(max(usable_cores(), (jobs or 1) * threads))

    @property
    def own(self) -> bool:
        """Whether it ends with the run."""
        return self.address is None

    @property
    def cores(self) -> int:
        """Those of the nodes that are there now."""
        return int(self._has("CPU"))

    def __repr__(self) -> str:
        return "Ray on this machine" if self.address is None else f"Ray at {self.address}"

    def close(self) -> None:
        """End the connection, and a cluster of its own with all that it has written."""
        ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, cores: int) -> None:
        # Else Ray would write one that it makes up into the home folder.
        if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="dsdctl-ray-", dir=_rays_folder()))
            ray.init(
                address="local",
                num_cpus=cores,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(self._folder),
            )
        except Exception as error:  # Ray raises no other where it takes too long
            self.close()
            raise WorkError(f"Ray does not start here ({_first_line(error)})") from error
        except BaseException:
            self.close()
            raise

    def choose_device(self, wish: DeviceWish) -> Device:
        """Resolve `auto`. Raises InputError where CUDA is asked for and no node has a GPU."""
        lacking = (
            f"{self} has no GPU" if self.own else f"the Ray cluster at {self.address} has no GPU"
        )
        return resolve_device(wish, lambda: self._has("GPU") > 0, lacking)

    def slots(self, device: Device, threads: int) -> int:
        """How many tasks the nodes that are there now can run at once."""
        if device == "cuda":
            return int(self._has("GPU") * (self.jobs or 1))
        return min(int(self._has("CPU") / threads), self.jobs or 2**31)

    def requirements(self, device: Device, threads: int) -> dict[str, float]:
        """What a task asks Ray for."""
        return {"num_cpus": threads, "num_gpus": 1 / (self.jobs or 1) if device == "cuda" else 0}

    def has_room(self, device: Device, threads: int) -> bool:
        """Say whether a node that is there now could run a task; if not, one may still come."""
        wanted = self.requirements(device, threads)
        return any(
            node["Alive"]
            and node["Resources"].get("CPU", 0) >= wanted["num_cpus"]
            and node["Resources"].get("GPU", 0) >= wanted["num_gpus"]
            for node in ray.nodes()
        )

    def require_head(self, seconds: float) -> None:
        """Raises WorkError where the head is out of reach for `seconds`."""
        deadline = time.monotonic() + seconds
        while not _answers(self._head):
            if time.monotonic() > deadline:
                lost = f"the head of the Ray cluster at {self.address} is lost; once there is one, "
                raise WorkError(
                    (f"{self} is lost; " if self.own else lost) + "re-run the command to resume"
                )
            time.sleep(POLL_SECONDS)

    def _has(self, resource: str) -> float:
        return float(ray.cluster_resources().get(resource, 0))

    @property
    def _head(self) -> str:
        if self.address is not None and self.address.startswith("ray://"):
            return self.address
        return str(ray.get_runtime_context().gcs_address)


class RayEngine:
    """At most as many tasks as the cluster has room for. A lost node takes only its tasks with it,
    which end as `lost`."""

    def __init__(self, cluster: RayCluster, config: WorkerConfig, grace: float = GRACE_SECONDS):
        """`grace`: seconds that levels in flight may take to a checkpoint when all is closed."""
        self._cluster = cluster
        self._grace = grace
        self._config = config.model_copy(update={"store": _everywhere(config.store)})
        self._work = ray.remote(
            **cluster.requirements(config.device, config.threads), max_retries=0, max_calls=0
        )(work_on_node)
        self._running: dict[Any, Task] = {}
        self.slots = self._count_slots()
        self._looked = time.monotonic()
        self._diverted = redirect_stdout(_ToLog())
        self._diverted.__enter__()

    def submit(self, task: Task) -> None:
        """Hand `task` to Ray, which starts it once there is room."""
        changes = {"dataset_path": _everywhere(task.dataset_path)}
        if task.teacher_weights is not None:
            changes["teacher_weights"] = _everywhere(task.teacher_weights)
        there = task.model_copy(update=changes)
        wish = os.environ.get(KERNELS_VARIABLE)
        self._running[self._work.remote(there, self._config, dsdctl.__version__, wish)] = task

    def results(self, timeout: float | None = None) -> Iterator[tuple[Task, TaskResult]]:
        """Yield what has ended; nothing if that takes longer than `timeout` or POLL_SECONDS.

        Raises WorkError where the cluster is lost.
        """
        seconds = POLL_SECONDS if timeout is None else min(timeout, POLL_SECONDS)
        try:
            ended, _ = ray.wait(list(self._running), timeout=seconds)
            self._look_around()
            for reference in ended:
                yield self._running.pop(reference), _result(reference)
        except (ConnectionError, exceptions.RaySystemError) as error:
            self._cluster.require_head(0)
            raise WorkError(f"the connection to the Ray cluster is lost ({error})") from error

    def close(self) -> None:
        """End all tasks, which leave a checkpoint first, and the connection."""
        try:
            self._cluster.require_head(0)
            for reference in self._running:
                ray.cancel(reference)
            if self._running:
                everything = list(self._running)
                ray.wait(everything, num_returns=len(everything), timeout=self._grace)
        except (WorkError, ConnectionError, exceptions.RayError):
            return  # there is nobody left to ask
        finally:
            self._cluster.close()
            self._diverted.__exit__(None, None, None)

    def _look_around(self) -> None:
        if time.monotonic() - self._looked >= POLL_SECONDS:
            self._cluster.require_head(HEAD_SECONDS)
            self.slots = self._count_slots()
            self._looked = time.monotonic()

    def _count_slots(self) -> int:
        # Where every node is gone, one task waits for the next to come.
        return max(1, self._cluster.slots(self._config.device, self._config.threads))


class _ToLog(io.TextIOBase):
    """Takes what Ray prints among a run's results: the last words of a node that was lost."""

    def write(self, text: str) -> int:
        for line in filter(None, map(str.strip, text.splitlines())):
            log.info("ray: %s", line)
        return len(text)


def work_on_node(task: Task, config: WorkerConfig, version: str, kernels: str | None) -> TaskResult:
    """Run a task in a worker of Ray's. What fails names the node, which may lack what others have.

    A worker has its node's environment and not the run's, which says what `kernels` are wanted.
    Ray cancels a task by an interrupt; here that is a wish to stop at a checkpoint. So is the end
    of the node's own process, which started this one: nobody waits for the answer any more.
    """
    if kernels is not None:
        os.environ[KERNELS_VARIABLE] = kernels
    stop, node = threading.Event(), os.getppid()
    before = signal.signal(signal.SIGINT, lambda _number, _frame: stop.set())
    try:
        if version != dsdctl.__version__:
            failure = f"dsdctl {dsdctl.__version__} is installed there, {version} here"
            result = TaskResult("failed", failure=failure)
        else:
            result = attempt(task, config, lambda: stop.is_set() or os.getppid() != node)
    finally:
        signal.signal(signal.SIGINT, before)
    if result.failure is not None:
        return replace(result, failure=f"on {socket.gethostname()}: {result.failure}")
    return result


def _result(reference: Any) -> TaskResult:
    """How a task ended, those that Ray has lost or could not start included."""
    try:
        result: TaskResult = ray.get(reference)
    except exceptions.OutOfMemoryError:
        return TaskResult("lost", failure="the memory of its node was full, so Ray ended it")
    except exceptions.NodeDiedError:
        return TaskResult("lost", failure="its node died")
    except (exceptions.WorkerCrashedError, exceptions.LocalRayletDiedError):
        return TaskResult("lost", failure="its worker process died")
    except exceptions.ObjectLostError:
        return TaskResult("lost", failure="its answer went with its node")
    except exceptions.RayError as error:  # it could not be started, say, without dsdctl
        return TaskResult("failed", failure=_last_line(error), trace=str(error))
    if result.status == "stopped":
        return TaskResult("lost", failure="it was stopped from outside")
    return result


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"a Ray worker failed: {lines[-1] if lines else type(error).__name__}"


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts handlers of its own in their place."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)


def _connect(address: str) -> None:
    """Connect to a cluster that runs already. Raises InputError where none answers."""
    try:
        if not _answers(address):
            raise ConnectionError("no cluster answers there")
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = f"no Ray cluster ({_first_line(error)})"
        raise InputError(f"--address: {address}: {reason}") from error


def _started_here() -> str | None:
    """The address of the cluster that `ray start` made on this machine, if it still answers.

    Where it keeps it is documented with ray.init().
    """
    with suppress(OSError, UnicodeDecodeError):
        address = Path(_rays_folder(), "ray", "ray_current_cluster").read_text().strip()
        return address if address and _answers(address) else None
    return None


def _rays_folder() -> str:
    """Where Ray keeps its files; the paths of its sockets must be short."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _answers(address: str) -> bool:
    """Whether something listens at `host:port`, or at what else Ray takes for an address."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return True
    with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=2):
        return True
    return False


def _everywhere(path: str) -> str:
    """A path that names the same file in whatever folder a worker runs."""
    return str(Path(path).absolute())
