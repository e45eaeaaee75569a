"""What the tests with real processes share: starting them, watching them, comparing stores."""

import ctypes
import os
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import chdir, suppress
from pathlib import Path

SPEC = """\
experiment: small
dataset: {name: digits, test: {fraction: 0.4}, validation: {fraction: 0.2, labels: clean}}
label_noise: {rate: 0.4}
student: {arch: vgg-like, depth: 1, width: 4, pool: 2}
teacher: {arch: vgg-like, depth: 1, width: 6, pool: 2, table: always}
training: {epochs: 3, batch_size: 200, optimizer: {lr: 0.05}, schedule: {milestones: [2]}}
pruning: {levels: 1, fraction: 0.3}
recipes: [vanilla]
seeds: [0]
"""


def spec(folder: Path, *changes: tuple[str, str], name: str = "small") -> Path:
    """Write SPEC with each (old, new) of `changes` to `folder`."""
    text = SPEC.replace("experiment: small", f"experiment: {name}")
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    file = folder / f"{name}.yaml"
    file.write_text(text)
    return file


def start(
    folder: Path, *arguments: object, kill_at: str = "", **options: object
) -> subprocess.Popen[str]:
    """Start dsdctl in `folder`; `kill_at` is a kill point for it and its workers."""
    line = [sys.executable, "-m", "dsdctl", *map(str, arguments)]
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    usual["env"] = {**os.environ, "DSDCTL_KILL_AT": kill_at}
    return subprocess.Popen(line, cwd=folder, **{**usual, **options})  # type: ignore[call-overload,no-any-return]


def dsdctl(folder: Path, *arguments: object, kill_at: str = "") -> subprocess.CompletedProcess[str]:
    """Run dsdctl in `folder` to its end; a defect that shows as a traceback is an error.

    What is not `run` is called in this process, which has imported torch already.
    """
    if arguments[0] != "run":
        return called(folder, *arguments)
    return ended(start(folder, *arguments, kill_at=kill_at))


def called(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call dsdctl in `folder` without a process of its own; a defect is raised."""
    from typer.testing import CliRunner

    from dsdctl.cli.app import app

    line = [str(argument) for argument in arguments]
    with chdir(folder):
        done = CliRunner().invoke(app, line, catch_exceptions=False)
    return subprocess.CompletedProcess(line, done.exit_code, done.stdout, done.stderr)


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for the end of what `start` began."""
    try:
        out, err = process.communicate(timeout=200)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert "Traceback" not in err, err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def result_bytes(store: Path) -> dict[str, bytes]:
    """Every file of levels and tables, but for those that say how long it took."""
    timed = {"environment.json", "checksums.json"}
    return {
        str(file.relative_to(store)): file.read_bytes()
        for kind in ("levels", "tables")
        for file in sorted(store.glob(f"{kind}/??/[0-9a-f]*/*"))
        if file.name not in timed
    }


def levels(store: Path) -> list[Path]:
    """The folders of finished levels."""
    return sorted(store.glob("levels/??/[0-9a-f]*"))


def inflight(store: Path) -> list[Path]:
    """The checkpoints of levels in flight."""
    return sorted((store / "inflight").glob("[0-9a-f]*"))


def workers(parent: int) -> list[int]:
    """The worker processes of a run, oldest first."""
    found = []
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    for child in children:
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
        except OSError:
            continue
    return found


def pieces_of(pid: int, store: Path) -> list[str]:
    """The keys of the pieces of work that a process is at: whose locks it has open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            file = link.readlink()
            found += [file.name] if file.parent == store / "locks" else []
    return found


def alive(pid: int) -> bool:
    """Say whether a process still runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def session_members(session: int) -> list[int]:
    """The processes of a session that still run."""
    members = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and alive(int(folder.name)):
            members.append(int(folder.name))
    return members


def wait_until(condition: Callable[[], object], seconds: float = 200) -> None:
    """Wait for something outside this process; the limit only guards against a hang."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def assert_workers_end_with(process: subprocess.Popen[str], store: Path) -> None:
    """Kill a run whose two workers are in training; neither outlives it."""
    wait_until(lambda: len(inflight(store)) == 2)
    left = workers(process.pid)
    assert len(left) == 2
    process.kill()
    process.communicate()
    wait_until(lambda: not any(alive(pid) for pid in left))


class Checkpoints:
    """Counts, through the kernel's inotify, the checkpoints that are written to a store.

    With `--checkpoint-every 0` there is one for each epoch that any process trains.
    """

    _CREATED = 0x100

    def __init__(self, store: Path):
        folder = store / "inflight"
        folder.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        self._file = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._file, os.fsencode(folder), self._CREATED) >= 0

    def taken(self) -> Counter[str]:
        """How many there were by key; ends the counting."""
        counted: Counter[str] = Counter()
        header = struct.Struct("iIII")
        try:
            while True:
                events = os.read(self._file, 1 << 20)
                while events:
                    size = header.unpack_from(events)[3]
                    name = events[header.size : header.size + size].rstrip(b"\0").decode()
                    counted[name.removeprefix(".").partition("-")[0]] += 1
                    events = events[header.size + size :]
        except BlockingIOError:
            os.close(self._file)
        return counted
