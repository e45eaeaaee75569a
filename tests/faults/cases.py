"""Cases of a class of faults: chosen, tried one by one, and counted."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

SECONDS = int(os.environ.get("FAULTS_SECONDS", "180"))
"""After how long a command counts as hung; it guards against a hang and measures nothing."""

Case = tuple[str, Callable[[Path], str]]
"""A name, and what tries it in a new folder and returns how that ended.

It raises FaultError where that is not right.
"""


class FaultError(Exception):
    """A case did not end as is promised."""


def require(condition: object, what: str) -> None:
    """Raises FaultError with `what` where something is not as it must be."""
    if not condition:
        raise FaultError(what)


def main(title: str, cases: Callable[[Path], Iterable[Case]]) -> int:
    """Try the cases that the command line asks for; return how many faults were found.

    `cases` is given a folder for what they share.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("words", nargs="*", help="only cases whose names hold one of them")
    parser.add_argument("--each", type=int, default=1, metavar="N", help="each N-th case")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="pass over N of them")
    options = parser.parse_args()
    count, found = 0, 0
    with tempfile.TemporaryDirectory(prefix="dsdctl-faults-") as root:
        chosen = [
            case
            for case in cases(Path(root))
            if not options.words or any(word in case[0] for word in options.words)
        ]
        for case in chosen[options.first :: options.each]:
            count += 1
            found += not _is_right(case, Path(root) / f"case-{count}")
    print(f"{title}: tried {count}, found {found}")
    return found


def _is_right(case: Case, folder: Path) -> bool:
    """Try it, and say in a line how it ended."""
    name, attempt = case
    try:
        print(f"ok     {name}: {attempt(folder)}", flush=True)
    except FaultError as error:
        print(f"FOUND  {name}: {' | '.join(str(error).splitlines())}", flush=True)
        return False
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return True
