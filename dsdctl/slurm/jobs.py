"""Slurm's jobs by trajectory: which to submit, which were, and what the queue says of them."""

import subprocess
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dsdctl.errors import WorkError
from dsdctl.plan.next_work import next_piece, unfinished
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.store.store import Store

RECORD = "slurm/jobs.json"
"""The file in a store that holds the last job of each trajectory."""

ARRAY = 1000
"""Jobs of an array at most: Slurm's default limit."""

QUEUE_SECONDS = 30
"""How long Slurm may take to answer."""


@dataclass(frozen=True)
class Job:
    """A job of a trajectory: `ended` where it has left the queue, `unknown` without an answer."""

    number: str
    state: Literal["pending", "running", "ended", "unknown"]
    reason: str = ""


@dataclass(frozen=True)
class Batch:
    """Trajectories whose jobs are submitted together: they wait for the same teacher, or none."""

    teacher: str | None
    trajectories: tuple[Trajectory, ...]


def batches(progress: Progress, submitted: Container[str]) -> Iterator[Batch]:
    """What is missing and not `submitted` yet, by the teacher that it waits for; teachers first."""
    groups: dict[str | None, list[Trajectory]] = {None: []}
    for trajectory in unfinished(progress):
        if trajectory.key in submitted:
            continue
        need = trajectory.teacher
        waits = need is not None and next_piece(progress, trajectory) is None
        groups.setdefault(need.trajectory if need and waits else None, []).append(trajectory)
    for teacher, group in groups.items():
        for start in range(0, len(group), ARRAY):
            yield Batch(teacher, tuple(group[start : start + ARRAY]))


def recorded(store: Store) -> dict[str, str]:
    """The number of the last job of each trajectory that was submitted, by its key."""
    found = store.read_json(RECORD) or {}
    return {key: number for key, number in found.items() if isinstance(number, str)}


def record(store: Store, numbers: Mapping[str, str]) -> None:
    """Remember the jobs of trajectories, in place of earlier ones."""
    store.write_json(RECORD, {**recorded(store), **numbers})


def done_file(folder: Path, number: str) -> Path:
    """What a job leaves in its folder when its work is done: it has left the queue, not failed."""
    return folder / f"{number}.done"


def jobs_of(store: Store) -> dict[str, Job]:
    """The last job of each trajectory that was submitted and whose work is not done, by its key;
    Slurm need not answer."""
    folder = store.root / Path(RECORD).parent
    numbers = {k: n for k, n in recorded(store).items() if not done_file(folder, n).exists()}
    if not numbers:
        return {}
    try:
        there = queue()
    except WorkError:
        return {key: Job(number, "unknown") for key, number in numbers.items()}
    return {key: there.get(number, Job(number, "ended")) for key, number in numbers.items()}


def described_jobs(store: Store) -> dict[str, str]:
    """How the last job of each trajectory stands whose work is not done, in words, by its key."""
    return {key: describe(job) for key, job in jobs_of(store).items()}


def queue() -> dict[str, Job]:
    """The user's jobs that wait or run, by their number. Raises WorkError without an answer."""
    line = ["squeue", "--noheader", "--array", "--me", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, check=True, timeout=QUEUE_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join(str(getattr(error, "stderr", None) or "").split())
        raise WorkError(said or f"squeue: {error}") from error
    return {job.number: job for job in map(_job, done.stdout.splitlines())}


def _job(line: str) -> Job:
    number, state, reason = line.split("|", 2)
    running = state in ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STAGE_OUT")
    reason = "" if reason == "None" else reason
    return Job(number, "running" if running else "pending", reason)


def describe(job: Job) -> str:
    """How a job of Slurm's stands whose trajectory is not finished."""
    match job.state:
        case "ended":
            return f"failed, job {job.number} (slurm/{job.number}_0_log.out in the store)"
        case "unknown":
            return f"job {job.number}, but squeue does not answer"
        case _:
            return f"{job.state}, job {job.number}" + (f" ({job.reason})" if job.reason else "")
