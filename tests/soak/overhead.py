"""What scheduling costs: many trajectories of trivial levels, by engine.

    python -m tests.soak.overhead noop --trajectories 1000
    python -m tests.soak.overhead local --trajectories 1000
    python -m tests.soak.overhead ray --trajectories 50
    python -m tests.soak.overhead slurm --trajectories 50

Half of the trajectories are distilled from the dense level of one teacher more; each has two levels
of one epoch of one batch. `noop` is the scheduler with an engine that does nothing and a store that
stays empty; `ray` and `slurm` start a cluster on this machine, of two cores. One JSON line is
printed: levels a second from the first start to the last end (for Slurm: from submission until
the queue is empty), the seconds before that, and the driver's peak memory.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from dsdctl.plan.plan import make_plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.resolve import resolve
from dsdctl.results import Environment, FinishedLevel, Measured
from dsdctl.run.scheduler import Scheduler
from dsdctl.store.store import Store
from dsdctl.worker.task_result import TaskResult
from dsdctl.worker.tasks import Task

from . import levels, spec, start

TIMEOUT = 3600


class NoopEngine:
    """Says at once that a level is done, and makes up what it reached."""

    slots = 2

    def __init__(self) -> None:
        self.done = 0
        self._tasks: deque[Task] = deque()

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def results(self, timeout: float | None = None) -> Iterator[tuple[Task, TaskResult]]:  # noqa: ARG002
        from dsdctl.keys import key_of

        task = self._tasks.popleft()
        self.done += 1
        assert task.kind == "level"
        result = _RESULT.model_copy(update={"level": task.identity.level})
        level = FinishedLevel(key=key_of(task.identity), result=result, environment=_NOWHERE)
        yield task, TaskResult("done", level)

    def close(self) -> None:
        pass


_NOWHERE = Environment(python="", torch="", dsdctl="", device="", threads=1, wall_seconds=0.0)

_RESULT = Measured(
    level=0,
    train_accuracy=0.5,
    flip_rate=0.4,
    fitted_noisy=None,
    fitted_true=None,
    train_loss=1.0,
    validation_accuracy=0.5,
    test_accuracy=0.5,
    entropy_bits=1.0,
    entropy_bits_per_layer={},
    total_weights=1,
    nonzero_weights=1,
    sparsity=0.0,
    density_per_layer={},
    learning_distance=0.0,
)


def write_spec(folder: Path, trajectories: int) -> Path:
    """A spec of that many trajectories, and a teacher."""
    return spec(
        folder,
        ("epochs: 3", "epochs: 1"),
        ("batch_size: 200", "batch_size: 1000"),
        (", schedule: {milestones: [2]}", ""),
        ("table: always", "table: never"),
        ("[vanilla]", "[vanilla, kd-dense-teacher]"),
        ("seeds: [0]", f"seeds: {list(range(trajectories // 2))}"),
    )


def noop(folder: Path, trajectories: int) -> dict[str, float]:
    began = time.monotonic()
    plan = make_plan([resolve(write_spec(folder, trajectories))])
    progress = Progress(plan, Store(folder / "store"))
    engine = NoopEngine()
    costs = dict.fromkeys(plan.trajectories, 1.0)
    scheduler = Scheduler(progress, engine, lambda _event: None, costs)
    started = time.monotonic()
    scheduler.run()
    seconds = time.monotonic() - started
    memory = _peak_mib(os.getpid())
    return _figures(engine.done, seconds, started - began, memory)


def run(folder: Path, trajectories: int, *options: str) -> dict[str, float]:
    """Run the command to its end, and read when it did what from its log."""
    write_spec(folder, trajectories)
    began, memory = time.time(), 0.0
    with (folder / "stderr").open("w") as stderr, (folder / "stdout").open("w") as stdout:
        line = ("run", "small.yaml", "--device", "cpu", *options)
        process = start(folder, *line, stdout=stdout, stderr=stderr)
        while process.poll() is None:
            memory = max(memory, _peak_mib(process.pid))
            time.sleep(0.05)
    if process.returncode != 0:
        sys.exit((folder / "stderr").read_text())
    store = folder / "dsdctl-store"
    (log,) = store.glob("logs/*.log")
    times = {"started": [], "finished": []}  # type: dict[str, list[float]]
    for when, kind in re.findall(r"^(\S+ \S+) INFO (started|finished) ", log.read_text(), re.M):
        times[kind].append(datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f").timestamp())
    seconds = times["finished"][-1] - times["started"][0]
    return _figures(len(levels(store)), seconds, times["started"][0] - began, memory)


def ray(folder: Path, trajectories: int) -> dict[str, float]:
    from ray_nodes import Nodes

    nodes = Nodes()
    try:
        nodes.complete()
        return run(folder, trajectories, "--engine", "ray", "--address", nodes.address)
    finally:
        nodes.close()


def slurm(folder: Path, trajectories: int) -> dict[str, float]:
    from slurm_node import SlurmNode

    write_spec(folder, trajectories)
    (folder / "cluster.yaml").write_text("partition: debug\n")
    node = SlurmNode()
    try:
        node.start()
        os.environ["SLURM_CONF"] = node.environment["SLURM_CONF"]
        began = time.monotonic()
        with (folder / "stderr").open("w") as stderr:
            process = start(folder, "run", "small.yaml", "--engine", "slurm", stderr=stderr)
            memory = 0.0
            while process.poll() is None:
                memory = max(memory, _peak_mib(process.pid))
                time.sleep(0.05)
        submitted = time.monotonic()
        if process.returncode != 0:
            sys.exit((folder / "stderr").read_text())
        while node.queue() and time.monotonic() - began < TIMEOUT:
            time.sleep(0.2)
        ended = time.monotonic()
    finally:
        node.close()
    done = len(levels(folder / "dsdctl-store"))
    return _figures(done, ended - submitted, submitted - began, memory)


def _peak_mib(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)
    return int(found[1]) / 1024 if found else 0.0


def _figures(done: int, seconds: float, before: float, memory: float) -> dict[str, float]:
    return {
        "levels": done,
        "levels_per_second": round(done / seconds, 2),
        "seconds": round(seconds, 2),
        "seconds_before": round(before, 2),
        "driver_peak_mib": round(memory),
    }


ENGINES = {"noop": noop, "local": run, "ray": ray, "slurm": slurm}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--trajectories", type=int, default=50, help="beside one teacher")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dsdctl-overhead-") as folder:
        found = ENGINES[options.engine](Path(folder), options.trajectories)
    versions = {"python": platform.python_version(), **_versions()}
    trajectories = options.trajectories + 1
    print(json.dumps({"engine": options.engine, "trajectories": trajectories, **found, **versions}))


def _versions() -> dict[str, str]:
    line = [sys.executable, "-m", "pip", "list", "--format=json"]
    packages = json.loads(subprocess.run(line, capture_output=True, check=True).stdout)
    wanted = {"torch", "ray", "submitit"}
    return {p["name"]: p["version"] for p in packages if p["name"] in wanted}


if __name__ == "__main__":
    main()
