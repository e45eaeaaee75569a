"""A log file a run, in the store: what was decided, when and why."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("dsdctl")
log.addHandler(logging.NullHandler())
log.propagate = False

_LINE = logging.Formatter("%(asctime)s %(levelname)s %(message)s")


@contextmanager
def log_to(folder: Path, *, verbose: bool) -> Iterator[Path]:
    """Write the log of this run to a new file in `folder`; with `verbose` to standard error too."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    handlers: list[logging.Handler] = [logging.FileHandler(file, encoding="utf-8")]
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
