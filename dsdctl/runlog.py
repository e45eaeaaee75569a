"""A log file a run, in the store: what was decided, when and why."""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dsdctl.errors import in_words, printable

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
        words = in_words(why) if isinstance(why, OSError) else repr(why)
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
