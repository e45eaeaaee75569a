"""`dsdctl rehearse`: each distinct training of a plan for some hundred batches, thrown away.

Each is run in a process of its own, so that its memory is counted alone, and that one which the
system kills takes no other with it. Nothing here imports torch.
"""

import statistics
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from dsdctl.cost.ledger import CountMacs, macs_per_trained_image
from dsdctl.cost.throughput import learn_rehearsed, workload
from dsdctl.cost.workloads import Outcome, Workload
from dsdctl.data.facts import is_there
from dsdctl.data.prepare import fallback_folder
from dsdctl.errors import DsdctlError, describe_os_error
from dsdctl.keys import canonical_json
from dsdctl.plan.plan import Plan
from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import Rehearsed
from dsdctl.run.listener import ProgressListener
from dsdctl.run.prepare import prepare_all
from dsdctl.store.store import Store
from dsdctl.system.devices import Device
from dsdctl.system.processes import become_worker, worker_process
from dsdctl.worker.rehearsal_tasks import Job, Teaching

BATCHES = 300
"""So many are rehearsed at least, unless asked for others or there are fewer."""

AFTER_WARM_UP = 100
"""Batches at the full rate that follow a warm-up, where that is longer."""

IN_ITS_PLACE = (
    "random images and labels instead: speed and memory are as with the real ones, losses are not"
)


def batches_of(trajectory: Trajectory, wish: int | None) -> int:
    """How many batches are rehearsed: as many as wished, else past the warm-up; never more than a
    level has."""
    setup = trajectory.setup
    steps, training = setup.steps_per_epoch, setup.training
    warmup = training.schedule.warmup * steps
    long = max(BATCHES, warmup + AFTER_WARM_UP if warmup else 0)
    return min(long if wish is None else wish, training.epochs * steps)


def rehearse(
    plan: Plan,
    store: Store,
    device: Device,
    threads: int,
    wish: int | None,
    listener: ProgressListener,
) -> list[Outcome]:
    """Rehearse what is distinct in `plan`, one after the other; progress goes to `listener`.

    Data sets that are here are prepared as for a run; random images stand for the others.
    """
    found = workloads(plan)
    absent = _absent(found, store, listener)
    outcomes = []
    for number, one in enumerate(found, 1):
        job = _job(one.first, fallback_folder(store.root), device, threads, wish)
        if one.first.key in absent:
            job = job.model_copy(update={"dataset_path": None})
        name = f"[{number}/{len(found)}] {one.first.label}"
        with listener.counting(name, "batches") as show:
            outcomes.append((one, _in_a_process(job, show)))
    return outcomes


def update_rates(
    store: Store, device: Device, outcomes: Sequence[Outcome], count_macs: CountMacs
) -> None:
    """Keep the rates for later plans of this store."""
    rates: dict[str, list[float]] = {}
    for one, rehearsed in outcomes:
        if rehearsed.images_per_second is not None:
            macs = macs_per_trained_image(one.first, count_macs)
            rates.setdefault(workload(one.first), []).append(macs * rehearsed.images_per_second)
    learn_rehearsed(store, device, {name: statistics.median(r) for name, r in rates.items()})


def _absent(found: Sequence[Workload], store: Store, listener: ProgressListener) -> set[str]:
    """Keys of the trajectories whose data are not here, or are of no use; each is said once."""
    reasons: dict[str, str] = {}
    here = []
    for trajectory in (one.first for one in found):
        images = trajectory.setup.images
        if is_there(images.dataset.name, images.path):
            here.append(trajectory)
        else:
            reasons[trajectory.key] = f"{images.dataset.name}: not in {images.path}"
    reasons |= prepare_all(here, fallback_folder(store.root), listener)
    for reason in dict.fromkeys(reasons.values()):
        listener.notify(f"{reason}; {IN_ITS_PLACE}")
    return set(reasons)


def _job(
    trajectory: Trajectory, spare: Path, device: Device, threads: int, wish: int | None
) -> Job:
    images = trajectory.setup.images
    identity = trajectory.level_identity(0, None, None)
    batches = batches_of(trajectory, wish)
    return Job(
        identity=identity.model_copy(update={"iterations": batches}),
        teaching=_teaching(trajectory),
        images=images.sizes.train,
        classes=images.facts.classes,
        shape=images.facts.shape,
        dataset_path=str(images.path),
        spare=str(spare),
        device=device,
        threads=threads,
        source=trajectory.setup.source,
    )


# Processes


def _in_a_process(job: Job, show: Callable[[int, int], None]) -> Rehearsed:
    """Run a job in a new process, which is killed when this one is interrupted."""
    batches = job.identity.iterations or 0
    with worker_process(_work, job) as connection:
        try:
            for done in iter(connection.recv, None):
                if isinstance(done, Rehearsed):
                    return done
                show(done, batches)
            raise EOFError
        except (EOFError, ConnectionError):
            return _failed(job, "its process died (killed, or the memory was full)")


def _work(connection: Connection, parent: int, job: Job) -> None:
    """Send the batches that are done, now and then, and at the end what came of them."""
    become_worker(parent)
    try:
        from dsdctl.worker.rehearsal import run_job

        rehearsed = run_job(job, connection.send)
    except DsdctlError as error:
        rehearsed = _failed(job, str(error))
    except Exception as error:
        words = describe_os_error(error, smaller="a smaller batch")
        if words is None:  # a defect
            traceback.print_exc()
        rehearsed = _failed(job, words or f"{type(error).__name__}: {error}")
    connection.send(rehearsed)


def _failed(job: Job, why: str) -> Rehearsed:
    return Rehearsed(batches=job.identity.iterations or 0, failure=why)


def workloads(plan: Plan) -> list[Workload]:
    """The distinct trainings of a plan: by network, data, settings and way of teaching."""
    groups: dict[tuple[str, str], list[Trajectory]] = {}
    for trajectory in plan.trajectories.values():
        identity, teaching = trajectory.level_identity(0, None, None), _teaching(trajectory)
        noise = identity.noise.model_copy(update={"seed": 0})
        alike = identity.model_copy(update={"seed": 0, "noise": noise})
        name = canonical_json(alike), teaching.model_dump_json() if teaching else ""
        groups.setdefault(name, []).append(trajectory)
    return [Workload(tuple(group)) for group in groups.values()]


def _teaching(trajectory: Trajectory) -> Teaching | None:
    need = trajectory.teacher
    if need is None:
        return None
    called = None if need.table else need.setup
    return Teaching(
        loss=need.loss,
        network=called.network if called else None,
        source=called.source if called else None,
    )
