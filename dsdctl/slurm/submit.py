"""Work on a Slurm cluster, submitted by submitit: a job for each trajectory.

A job is `dsdctl run --trajectory KEY`, which works through the store: its locks and keys keep two
jobs from training a level twice, so nothing depends on what Slurm starts, and when. Students wait
for their teacher's job. A job that is preempted or out of time leaves a checkpoint and is queued
again.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsdctl.errors import InputError, WorkError
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.slurm import jobs
from dsdctl.slurm.config import Cluster, minutes_of
from dsdctl.store.store import Store

try:
    import submitit
    from submitit.helpers import DelayedSubmission
    from submitit.slurm.slurm import _make_sbatch_string
except ImportError as error:
    raise InputError("--engine slurm: needs submitit (pip install 'dsdctl[slurm]')") from error

ENDED = 143
"""Exit code of a run that was asked to stop."""

GRACE_SECONDS = 600
"""How long a job that was told to end may wait for Slurm to end it."""


class TrajectoryJob:
    """What a job runs. submitit stores it, and calls `checkpoint` when the job must end soon."""

    def __init__(self, command: Sequence[str]):
        self.command = tuple(command)
        self._process: int | None = None

    def __call__(self) -> None:
        """Run the command. Raises WorkError where it fails, so that the job does."""
        process = subprocess.Popen(self.command, preexec_fn=_ignore_warnings)
        self._process = process.pid
        code = _wait(process.pid)
        self._process = None
        if code == ENDED:  # preempted, and only a job that is still there is queued again
            time.sleep(GRACE_SECONDS)
        if code != 0:
            raise WorkError(f"{shlex.join(self.command)}: exit code {code}")
        here = submitit.JobEnvironment()
        jobs.done_file(here.paths.folder, here.job_id).touch()

    def checkpoint(self) -> DelayedSubmission:
        """End the command, which leaves a checkpoint, and say what to run when queued again."""
        if self._process is not None:
            os.kill(self._process, signal.SIGTERM)
            _wait(self._process)
        return DelayedSubmission(TrajectoryJob(self.command))


def _ignore_warnings() -> None:
    """The warning goes to all processes of a job, but it is the job that acts on it."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _wait(process: int) -> int:
    # Popen.wait holds a lock, for which a signal's handler would wait forever.
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@dataclass(frozen=True)
class Slurm:
    """How jobs are submitted: the cluster, the store, and what comes before `--trajectory`."""

    cluster: Cluster
    store: Store
    command: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.store.root.absolute() / "slurm"

    def submit(self, progress: Progress) -> dict[str, str]:
        """Submit what is missing and not in the queue; return the new jobs by trajectory.

        Raises WorkError where Slurm does not answer or does not take them.
        """
        with self.store.lock("slurm") as locked:
            if not locked:
                raise WorkError("another process is submitting jobs for this store")
            waiting = jobs.queue()
            numbers = {k: n for k, n in jobs.recorded(self.store).items() if n in waiting}
            new: dict[str, str] = {}
            for batch in jobs.batches(progress, numbers.keys()):
                teacher = {**numbers, **new}.get(batch.teacher or "")
                added = self._submit(batch, teacher)
                # Kept at once: a killed driver must not submit them again.
                jobs.record(self.store, added)
                new.update(added)
            return new

    def _submit(self, batch: jobs.Batch, teacher: str | None) -> dict[str, str]:
        self.folder.mkdir(exist_ok=True)
        try:
            executor = submitit.SlurmExecutor(self.folder, self.cluster.requeues)
            executor.update_parameters(**self._parameters(batch, teacher))
            with executor.batch():
                submitted = [
                    executor.submit(TrajectoryJob(self._line(trajectory)))
                    for trajectory in batch.trajectories
                ]
        except (RuntimeError, OSError) as error:
            said = " ".join(str(error).split()).removeprefix("sbatch: ")
            raise WorkError(f"sbatch: {said}") from error
        keys = [trajectory.key for trajectory in batch.trajectories]
        return dict(zip(keys, (job.job_id for job in submitted), strict=True))

    def scripts(self, progress: Progress) -> Iterator[str]:
        """What would be submitted, a script a batch, as submitit writes it."""
        for batch in jobs.batches(progress, ()):
            count = len(batch.trajectories)
            teacher = None if batch.teacher is None else f"JOB_OF_{batch.teacher[:8]}"
            script = _make_sbatch_string(
                shlex.join((sys.executable, "-u", "-m", "submitit.core._submit", str(self.folder))),
                self.folder,
                map_count=count if count > 1 else None,
                **self._parameters(batch, teacher),
            )
            lines = [f"#   {t.label}: {shlex.join(self._line(t))}" for t in batch.trajectories]
            yield "\n".join([script.rstrip(), "", "# which runs, one a job:", *lines, ""])

    def _line(self, trajectory: Trajectory) -> tuple[str, ...]:
        return (*self.command, "--trajectory", trajectory.key)

    def _parameters(self, batch: jobs.Batch, teacher: str | None) -> dict[str, Any]:
        """submitit's names for what the cluster wants to know."""
        cluster = self.cluster
        parameters = {
            "job_name": f"dsdctl-{batch.trajectories[0].key[:8]}",
            "partition": cluster.partition,
            "account": cluster.account,
            "qos": cluster.qos,
            "constraint": cluster.constraint,
            "gres": cluster.gres,
            "cpus_per_task": cluster.cpus,
            # From Slurm 22.05 on srun does not take over what sbatch was asked for.
            "srun_args": [f"--cpus-per-task={cluster.cpus}"],
            "mem": None if cluster.memory_gib is None else f"{cluster.memory_gib * 1024:.0f}M",
            "time": minutes_of(cluster.time),
            "signal_delay_s": cluster.warning_seconds,
            "array_parallelism": cluster.at_once,
            "setup": list(cluster.setup) or None,
            "dependency": None if teacher is None else f"afterok:{teacher}",
            "stderr_to_stdout": True,
            # A student whose teacher failed would wait forever.
            "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes"},
        }
        return {name: value for name, value in parameters.items() if value is not None}
