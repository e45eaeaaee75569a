"""What is refused before any work is begun."""

import shutil

from dsdctl.cost.remaining import disk_bytes
from dsdctl.errors import InputError, WorkError
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.run.options import RunOptions
from dsdctl.units import size


def check_teacher_files(plan: Plan) -> None:
    """Refuse weights files that do not fit their network. Raises InputError for all at once."""
    problems: dict[str, None] = {}
    for trajectory in plan.trajectories.values():
        need = trajectory.teacher
        if need is not None and need.file is not None:
            from dsdctl.worker.teachers import teacher_from_file

            if need.setup.own is not None:
                continue  # its code runs in workers alone, which check the file
            facts = trajectory.setup.images.facts
            try:
                teacher_from_file(need.file.identity, need.file.path, facts.shape, facts.classes)
            except WorkError as error:
                problems[str(error)] = None
    if problems:
        raise InputError(*problems)


def check_disk(progress: Progress, options: RunOptions) -> None:
    """Refuse to start what the disk has no room for. Raises InputError."""
    needed = disk_bytes(progress, options.only)
    free = shutil.disk_usage(options.store).free
    if needed > free:
        raise InputError(
            f"--store: {options.store}: the run may write {size(needed)}, "
            f"but only {size(free)} are free"
        )
