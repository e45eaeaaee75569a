"""Named points at which a test may have this process killed; without its variable nothing happens.

`DSDCTL_KILL_AT=commit-renamed` sends SIGKILL at the first pass of that point, `commit-renamed:3` at
the third pass in one process.
"""

import os
import signal

VARIABLE = "DSDCTL_KILL_AT"

POINTS = (
    "training",
    "checkpoint-written",
    "checkpoint-renamed",
    "commit-written",
    "commit-renamed",
    "table-built",
    "scheduling",
)

_passes: dict[str, int] = {}


def kill_point(name: str) -> None:
    """Die here if the environment says so."""
    wanted, _, number = os.environ.get(VARIABLE, "").partition(":")
    if wanted != name:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] == int(number or 1):
        os.kill(os.getpid(), signal.SIGKILL)
