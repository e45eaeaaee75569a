"""What can go wrong on the user's side. The CLI catches these once and prints one line each."""


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
