"""`dsdctl run --engine slurm`: what is missing of a plan, as jobs."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from dsdctl.cli.console import notify, print_line, print_result
from dsdctl.errors import InputError
from dsdctl.plan.next_work import unfinished
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.slurm.config import read_cluster
from dsdctl.store.store import Store


def submit(
    plan: Plan,
    specs: Iterable[Path],
    store: Path,
    cluster: Path,
    options: Mapping[str, Iterable[object]],
    *,
    threads: int,
    dry_run: bool,
) -> bool:
    """Submit what is missing, or print the scripts that would be; return whether that is all to do.

    `options` are those of the jobs' own `dsdctl run`, with their values, but for `threads`. Raises
    InputError where the cluster's file is not usable, WorkError where Slurm is not.
    """
    wanted = read_cluster(cluster)
    if threads > wanted.cpus:
        raise InputError(
            f"--threads: is {threads} (allowed: at most `cpus` of {cluster}, {wanted.cpus})"
        )
    from dsdctl.slurm.submit import Slurm

    opened = Store(store)
    if not dry_run:
        opened.open_for_writing()
    progress = Progress(plan, opened)
    left = list(unfinished(progress))
    words = [sys.executable, "-m", "dsdctl", "run", *(str(spec.absolute()) for spec in specs)]
    words += ["--store", str(store.absolute()), "--jobs", "1", "--threads", str(threads)]
    words += ["--grace", str(wanted.warning_seconds)]
    words += [str(w) for name, values in options.items() for v in values for w in (name, v)]
    slurm = Slurm(wanted, opened, tuple(words))
    if dry_run:
        for script in slurm.scripts(progress):
            print_result(script)
    elif left:
        new = slurm.submit(progress)
        for key, number in new.items():
            print_line(f"{key[:8]}  {plan.trajectories[key].label}: job {number}")
        notify(f"{len(new)} jobs submitted, {len(left) - len(new)} were in the queue already")
        notify("`dsdctl status` says how far they are; re-run to print the comparison")
    return dry_run or bool(left)
