"""A log file a run, in the store: what was decided, when and why."""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dsdctl.errors import describe_os_error, printable
from dsdctl.plan.next_work import levels_to_restore, stop_reason
from dsdctl.plan.progress import Progress
from dsdctl.plan.stopping import describe_rule
from dsdctl.plan.trajectory import TeacherRequirement
from dsdctl.spec.matrix import row_name

log = logging.getLogger("dsdctl")
log.addHandler(logging.NullHandler())
log.propagate = False


class _Lines(logging.Formatter):
    """Lines of plain text, whatever is in a name."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(printable, super().format(record).split("\n")))


_LINE = _Lines("%(asctime)s %(levelname)s %(message)s")


_NEVER = logging.CRITICAL + 1


class _LogFile(logging.FileHandler):
    """A log file that ends where the disk is full, which is said once and stops nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002
        self.setLevel(_NEVER)
        why = sys.exc_info()[1]
        words = describe_os_error(why) if isinstance(why, OSError) else repr(why)
        sys.stderr.write(f"warning: {self.baseFilename}: the log ends here ({words})\n")

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(folder: Path, *, verbose: bool) -> Iterator[Path]:
    """Write the log of this run to a new file in `folder`; with `verbose` to standard error too."""
    folder.mkdir(parents=True, exist_ok=True)
    # In containers each run may be process 1.
    run = f"{time.strftime('%Y%m%d-%H%M%S')}-{socket.gethostname()}-{os.getpid()}"
    file = folder / f"{run}.log"
    handlers: list[logging.Handler] = [_LogFile(file, encoding="utf-8", errors="backslashreplace")]
    if verbose:
        handlers.append(logging.StreamHandler())
    for handler in handlers:
        handler.setFormatter(_LINE)
        log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield file
    finally:
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()


def log_plan(progress: Progress, missing: Mapping[str, int]) -> None:
    """Log what is known of each trajectory, and how many levels are `missing`."""
    for trajectory in progress.plan.trajectories.values():
        key, again = trajectory.key, levels_to_restore(progress, trajectory)
        log.info(
            "trajectory %s (%s): %d levels done, at most %d to run%s%s",
            key,
            trajectory.label,
            progress.known[key].next_level,
            missing.get(key, 0),
            f", of these again for their dropped weights {again}" if again else "",
            "" if trajectory.teacher is None else f"; {_teacher_line(trajectory.teacher)}",
        )


def _teacher_line(need: TeacherRequirement) -> str:
    """Who teaches, and whether from a table."""
    table = "from cached logits" if need.table else "called for every batch"
    rule = need.rule
    who = f"level {rule}" if isinstance(rule, int) else f"the {describe_rule(rule)}"
    source = f"{who} of {need.trajectory}" if need.file is None else str(need.file.path)
    return f"taught by {source}, {table} ({need.table_reason})"


def log_decisions(progress: Progress) -> None:
    """Log what each recipe saw: where it stopped and why, the levels it chose, who taught."""
    for row_plan in progress.plan.rows:
        row = row_plan.row
        for key in row_plan.students:
            trajectory, decision = progress.plan.trajectories[key], progress.decision(row_plan, key)
            taught = ""
            if trajectory.teacher is not None and trajectory.teacher.file is None:
                taught = f"; taught by level {progress.teacher_level(trajectory.teacher)}"
            log.info(
                "%s: %s, seed %d: %s after %d trainings, best level on validation %s, "
                "reported %s%s",
                row_plan.experiment,
                row_name(row.recipe.recipe, row.variant),
                trajectory.seed,
                stop_reason(progress, trajectory, decision),
                decision.trainings,
                decision.best,
                decision.selected(row.recipe.select),
                taught,
            )
