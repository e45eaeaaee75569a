"""Damage each kind of file of a store, of prepared data and of W&B's journals, in each way.

    python -m tests.faults.corruption [--each N] [WORD...]

Each case has its own copy of a small finished store, in which a further level is in flight. It is
read by `report`, checked by `store check` and gone on with by `run`: none may hang, end in a
traceback, use what is damaged, or read or write through a link.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from soak import result_bytes

from .cases import Case, main
from .damage import Damage, damages, missing, mode_000, swapped
from .finished_store import Made, make
from .forgery import FORGED
from .inside import command, defects, ended, levels_run_here, without_root_s_right


def attempt(case: Damage, made: Made, place: Path) -> tuple[str, list[str]]:
    """Try a case on a copy in `place`; return the exit codes, and what was wrong."""
    folder, outside = place / "work", place / "outside"
    shutil.copytree(made.folder, folder, symlinks=True)
    outside.mkdir()
    path = case.path(folder)
    case.damage(path, outside)
    before, strangers = _files(folder / "store"), _files(outside)
    wrong: list[str] = []

    def do(*line: object) -> subprocess.CompletedProcess[str]:
        right = without_root_s_right() if case.damage is mode_000 else nullcontext()
        with right, levels_run_here():
            done = command(folder, *line)
        wrong.extend(defects(done))
        return done

    report, check = do("report", "short.yaml"), do("store", "check")
    if _files(folder / "store") != before:
        wrong.append("reading changed the store")
    if report.stdout != made.report and case.damage is not missing and not report.stderr.strip():
        wrong.append("`report` says something else, and not why")
    run = do("run", "longer.yaml")
    if case.tracked:
        do("report", "tracked.yaml", "--wandb")
    said = {"report": report.stderr, "check": check.stdout + check.stderr, "run": run.stderr}
    name = _named(case, path, folder)
    wrong += [f"`{who}` does not name it" for who in case.said_by if name not in said[who]]
    if "check" in case.said_by and check.returncode == 0:
        wrong.append("`store check` is content")
    if _files(outside) != strangers:
        wrong.append("something outside was changed")
    if "a stranger's secret" in report.stdout + report.stderr + check.stdout + run.stdout:
        wrong.append("what lies outside is shown")
    if run.returncode == 0:
        wrong += _ended_as_it_must(folder, made)
        wrong += case.checked(folder) if case.damage is not mode_000 else []
    elif case.damage is not mode_000 and case.kind not in ("marker", "lock", "prepared lock"):
        wrong.append(f"`run` does not mend it ({_last(run.stderr)})")
    elif name not in run.stderr:
        wrong.append(f"`run` fails without naming it ({_last(run.stderr)})")
    _make_readable(path)
    return f"{report.returncode} {check.returncode} {run.returncode}", wrong


def _ended_as_it_must(folder: Path, made: Made) -> list[str]:
    found = result_bytes(folder / "store")
    names = made.reference.keys() | found.keys()
    other = [name for name in names if found.get(name) != made.reference.get(name)]
    return [f"`run` ends in other results ({sorted(other)[0]})"] if other else []


def _named(case: Damage, path: Path, folder: Path) -> str:
    """What a message must hold to name it: of checksums, that may belong to any file, the folder;
    of two that were swapped, either."""
    if case.kind == "marker":
        return path.name
    if case.damage is swapped and "level" in case.kind:
        return "does not belong to this key"
    return str((path.parent if path.name == "checksums.json" else path).relative_to(folder))


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it says nothing"


def _make_readable(path: Path) -> None:
    if path.exists() and not path.is_symlink():
        path.chmod(0o755 if path.is_dir() else 0o644)


def _files(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder, but for times, locks and what `report` may not read."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.fsencode(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = b""
    return found


def try_forgery(name: str, made: Made, place: Path) -> tuple[str, list[str]]:
    """Try a forgery on a copy in `place`; return the exit codes, and what was wrong."""
    forge, expected = FORGED[name]
    folder = place / "work"
    shutil.copytree(made.folder, folder, symlinks=True)
    path = forge(folder)
    with levels_run_here():
        done = [
            command(folder, *line.split())
            for line in (
                "report short.yaml", "report short.yaml --format json", "store check",
                "store list", "plan short.yaml", "status short.yaml", "run longer.yaml",
            )
        ]  # fmt: skip
        if "journal" in name:
            done.append(command(folder, "report", "tracked.yaml", "--wandb"))
    report, run = done[0], done[6]
    wrong = [defect for one in done for defect in defects(one)]
    shown = str(path.relative_to(folder))
    if "\x1b" in "".join(one.stdout + one.stderr for one in done):
        wrong.append("an escape reaches the terminal")
    said = {
        "refused": (str(path.parent.relative_to(folder)) in report.stderr, run.returncode == 0),
        "quarantined": (shown in run.stderr and "quarantined" in run.stderr, run.returncode == 0),
        "stops": (run.returncode == 3, "error: " in run.stderr),
    }.get(expected, (run.returncode == 0, not report.stderr))
    if not all(said):
        wrong.append(f"is not {expected}: {_last(report.stderr)}; {_last(run.stderr)}")
    if expected in ("refused", "quarantined", "ignored"):
        wrong += _ended_as_it_must(folder, made)
    return " ".join(str(one.returncode) for one in done), wrong


def cases(root: Path) -> Iterator[Case]:
    """All damages, and all forgeries."""
    made = make(root / "made")
    for damage in damages():
        yield damage.name, lambda place, damage=damage: ended(*attempt(damage, made, place))
    for name, (_, outcome) in FORGED.items():
        yield (
            f"forged {name}",
            lambda place, n=name, o=outcome: ended(*try_forgery(n, made, place), o),
        )


if __name__ == "__main__":
    sys.exit(main("corruption", cases) != 0)
