"""What can go wrong on the user's side. The CLI catches these once and prints one line each."""

import errno


class DsdctlError(Exception):
    """Base of all errors that dsdctl reports without a traceback."""


class InputError(DsdctlError):
    """A spec, recipe, data set or option is not usable; exit code 2.

    `problems` holds one complete line for each thing that is wrong.
    """

    def __init__(self, *problems: str):
        self.problems = tuple(printable(problem) for problem in problems)
        super().__init__("\n".join(self.problems))


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
    """A stored folder is incomplete or altered."""


_GPU_MEMORY = ("CUDA error: out of memory", "STATUS_ALLOC_FAILED")
_MEMORY = ("allocate memory", "failed to map segment", "can't start new thread", "std::bad_alloc")


def in_words(
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
