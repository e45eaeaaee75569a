"""What can go wrong on the user's side. The CLI catches these once and prints one line each."""

import errno
from pathlib import Path

MAX_PROBLEMS = 20
"""So many problems are shown at once; of the others their number."""

MAX_PROBLEM_LENGTH = 1000
"""Characters of a problem's line."""

_GAP = " ... "


class DsdctlError(Exception):
    """Base of all errors that dsdctl reports without a traceback."""


class InputError(DsdctlError):
    """A spec, recipe, data set or option is not usable; exit code 2.

    `problems` holds one complete line for each thing that is wrong, the first MAX_PROBLEMS; `more`
    counts the others. With `unchecked`, part of the input was not looked at any more.
    """

    def __init__(self, *problems: str, more: int = 0, unchecked: bool = False):
        self.problems = tuple(map(_problem_line, problems[:MAX_PROBLEMS]))
        self.more = more + len(problems) - len(self.problems)
        self.unchecked = unchecked
        super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> tuple[str, ...]:
        """What a user is told: the problems, and how many are left out."""
        left_out = [f"and {self.more} more"] if self.more else []
        left_out += ["the rest was not checked"] if self.unchecked else []
        return (*self.problems, *(["; ".join(left_out)] if left_out else []))


class Problems:
    """Gathers problems, each once, as far as they are shown; of the others it keeps the number.

    Who gathers from many sources leaves off once `full`, and says so by `unchecked`.
    """

    def __init__(self) -> None:
        self.more = 0
        self.unchecked = False
        self._lines: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    @property
    def full(self) -> bool:
        """Whether no further problem will be shown."""
        return len(self._lines) >= MAX_PROBLEMS

    def add(self, line: str) -> None:
        """Take in a problem."""
        if not self.full:
            self._lines[line] = None
        elif line not in self._lines:
            self.more += 1

    def take(self, error: InputError) -> None:
        """Take in all the problems of an error."""
        for line in error.problems:
            self.add(line)
        self.more += error.more
        self.unchecked = self.unchecked or error.unchecked

    def error(self) -> InputError:
        """All of them as one error."""
        return InputError(*self._lines, more=self.more, unchecked=self.unchecked)


def _problem_line(problem: str) -> str:
    return shortened(printable(problem), MAX_PROBLEM_LENGTH)


def shortened(text: str, most: int) -> str:
    """Leave out the middle of a text of more than `most` characters."""
    if len(text) <= most:
        return text
    kept = most - len(_GAP)
    return text[: kept - kept // 2] + _GAP + text[-(kept // 2) :]


def printable(text: str) -> str:
    """Write what would move a terminal's cursor or colour as its escape."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


class WorkError(DsdctlError):
    """A piece of work failed while it ran; other work goes on, exit code 3."""


class BusyError(WorkError):
    """Another process is at this very piece of work."""


class StoppedError(WorkError):
    """A piece of work was asked to stop, and left a checkpoint to go on from."""


class DriftError(WorkError):
    """Something computed does not agree with what must hold, such as a mask's exact count."""


class DamagedError(WorkError):
    """A stored folder, or file by itself, is incomplete or altered: all of `path` is."""

    def __init__(self, problem: str, path: Path):
        super().__init__(problem)
        self.path = path


_GPU_MEMORY = ("CUDA error: out of memory", "STATUS_ALLOC_FAILED")
_MEMORY = ("allocate memory", "failed to map segment", "can't start new thread", "std::bad_alloc")


def describe_os_error(
    error: Exception, full: str | None = None, smaller: str = "fewer --jobs"
) -> str | None:
    """What a machine ran out of or refused, in words; None where that is not what went wrong.

    A full disk is one thing to say, whichever file did not fit: `full` names it. `smaller` is what
    to try where a memory is full.
    """
    text = str(error)
    # Errors of torch's are known by name, since torch itself may be what does not fit.
    if type(error).__name__ == "OutOfMemoryError" or any(part in text for part in _GPU_MEMORY):
        return f"the GPU's memory is full, try {smaller} ({text.partition('. ')[0]})"
    out_of_memory = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError | ImportError) and any(part in text for part in _MEMORY)
    )
    if out_of_memory or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return f"the memory is full, try {smaller}"
    if isinstance(error, OSError):
        file = full if full and error.errno in (errno.ENOSPC, errno.EDQUOT) else error.filename
        return (f"{file}: " if file else "") + (error.strerror or text)
    return None
