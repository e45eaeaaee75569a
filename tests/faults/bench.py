"""The real command in processes of its own, under a library that fails, kills or holds its calls.

A case of these scripts is tried on a copy of a small finished store.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from archives import write_image_folder
from soak import alive, called, result_bytes, spec

from .cases import SECONDS, Case, FaultError, require

STORE = "dsdctl-store"

RUN = ("run", "small.yaml", "--jobs", "1", "--checkpoint-every", "0")
TRACKED = ("run", "tracked.yaml", "--jobs", "1", "--checkpoint-every", "0")
PICTURES = ("run", "pictures.yaml", "--jobs", "1")
REPORT = ("report", "small.yaml")
EXPORT = ("export", "small.yaml", "--recipe", "vanilla", "--output", "out")
GC = ("store", "gc", "--yes")
GC_WEIGHTS = ("store", "gc", "small.yaml", "--weights", "--yes")

TOKEN = "DSDCTL_TEST_TOKEN"
"""By this variable of their environment all processes of a run are known."""

PICTURES_SPEC = """\
experiment: pictures
dataset: {name: image-folder, root: pictures, size: {resize: 16, crop: 14, test_crop: 12}}
student: {arch: vgg-like, depth: 1, width: 3, pool: 2}
training: {epochs: 1, batch_size: 12}
pruning: {levels: 0}
recipes: [vanilla]
seeds: [0]
"""


@dataclass(frozen=True)
class Fault:
    """What the shim does (see shim.c) at the call `at` of `calls` on a file that fits `path`."""

    path: str
    calls: str
    do: str
    at: int = 1


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code as a shell sees it, and what it said."""

    code: int
    out: str
    err: str


class Started:
    """A command that runs, with all that it has started."""

    def __init__(
        self,
        folder: Path,
        *arguments: object,
        fault: Fault | None = None,
        shim: Path | None = None,
        environment: Mapping[str, str | None] | None = None,
        line: Sequence[object] = (),
        wrapper: Sequence[str] = (),
        **options: object,
    ):
        self.token = secrets.token_hex(8)
        self.state = folder / f"state-{self.token}"
        # Where nothing is buffered, output that cannot be written is met with earlier.
        changed = {TOKEN: self.token, "PYTHONUNBUFFERED": None, **(environment or {})}
        if fault is not None:
            assert shim is not None
            self.state.write_bytes(bytes(8))
            changed |= {"LD_PRELOAD": str(shim), "FAULT_STATE": str(self.state)}
            changed |= {"FAULT_PATH": fault.path, "FAULT_CALLS": fault.calls}
            changed |= {"FAULT_DO": fault.do, "FAULT_AT": str(fault.at)}
        whole = {k: v for k, v in {**os.environ, **changed}.items() if v is not None}
        self.out, self.err = (folder / f"state-{self.token}.{end}" for end in ("out", "err"))
        command = line or (*wrapper, sys.executable, "-m", "dsdctl", *arguments)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            usual = {"cwd": folder, "stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
            settings = {**usual, "env": whole, "start_new_session": True, **options}
            self.process = subprocess.Popen(list(map(str, command)), **settings)  # type: ignore[call-overload]

    def held(self, seconds: float = SECONDS) -> int:
        """Wait until a process is held by the shim; return which."""
        reached = self.state.with_name(self.state.name + ".reached")
        deadline = time.monotonic() + seconds
        while not (reached.exists() and reached.read_text().endswith("\n")):
            require(self.process.poll() is None, f"it ended before: {self._read(self.err)}")
            require(time.monotonic() < deadline, "it never came there")
            time.sleep(0.01)
        return int(reached.read_text())

    def release(self) -> None:
        """Let go what is held."""
        self.state.with_name(self.state.name + ".go").touch()

    def members(self) -> list[int]:
        """The processes of this run that are still there."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{TOKEN}={self.token}".encode() in (folder / "environ").read_bytes():
                    found += [int(folder.name)] * alive(int(folder.name))
        return found

    def ended(self, seconds: float = SECONDS) -> Done:
        """Wait for the end. Raises FaultError where it hangs, a process stays, or a trace shows."""
        try:
            code = self.process.wait(seconds)
            deadline = time.monotonic() + 10
            while left := self.members():
                require(time.monotonic() < deadline, f"{len(left)} processes are left")
                time.sleep(0.02)
        except subprocess.TimeoutExpired:
            raise FaultError(f"it hangs: {self._read(self.err)}") from None
        finally:
            for pid in self.members():
                with suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        said = [self._read(file) for file in (self.out, self.err)]
        for file in self.state.parent.glob(f"{self.state.name}*"):
            file.rename(self.state.parent / file.name.replace(self.token, "last"))
        require("Traceback" not in said[1], f"a traceback: {said[1]}")
        return Done(code if code >= 0 else 128 - code, *said)

    @staticmethod
    def _read(file: Path) -> str:
        return file.read_bytes().decode(errors="replace")


@dataclass
class Bench:
    """A finished store to copy, the compiled shim, and what an undisturbed command gives."""

    folder: Path
    shim: Path = field(init=False)
    bytes: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.shim = self.folder / "shim.so"
        line = [
            "gcc",
            "-O2",
            "-shared",
            "-fPIC",
            "-o",
            self.shim,
            Path(__file__).with_name("shim.c"),
            "-ldl",
        ]
        subprocess.run(line, check=True)
        self.reference = self.folder / "reference"
        self.reference.mkdir()
        write_specs(self.reference)
        done = Started(self.reference, "run", "small.yaml", "--jobs", "1").ended()
        require(done.code == 0, done.err)
        self.bytes = result_bytes(self.reference / STORE)

    def tried(self, attempt: "Attempt", folder: Path) -> str:
        """Attempt it in a new folder with the specs and a whole store of small.yaml."""
        shutil.copytree(self.reference, folder)
        return attempt(self, folder)

    def start(
        self, folder: Path, *arguments: object, fault: Fault | None = None, **options: object
    ) -> Started:
        """Start the command with the shim."""
        return Started(folder, *arguments, fault=fault, shim=self.shim, **options)  # type: ignore[arg-type]

    def run(
        self, folder: Path, *arguments: object, fault: Fault | None = None, **options: object
    ) -> Done:
        """Run the command to its end."""
        return self.start(folder, *arguments, fault=fault, **options).ended()

    def check_whole(self, folder: Path, store: str = STORE, *, without: str = "") -> None:
        """Raises FaultError where a store is not what an undisturbed run leaves, but for files of
        the name `without`."""
        found = result_bytes(folder / store)
        names = [n for n in found.keys() | self.bytes if Path(n).name != without]
        other = [n for n in names if found.get(n) != self.bytes.get(n)]
        require(not other, f"{len(other)} files are not what an undisturbed run writes: {other}")
        checked = called(folder, "store", "check", "--store", store)
        require(checked.returncode == 0, checked.stdout + checked.stderr)
        require(not list((folder / store).glob("setaside/*")), "something was set aside")
        left = leftovers(folder)
        require(not left, f"left behind: {', '.join(map(str, left))}")


def write_specs(folder: Path) -> None:
    """small.yaml (a student, and one distilled from a table), tracked.yaml (the same, mirrored to
    W&B) and pictures.yaml, with its images."""
    brief = ("epochs: 3", "epochs: 2"), ("milestones: [2]", "milestones: [1]")
    file = spec(folder, *brief, ("[vanilla]", "[vanilla, kd-dense-teacher]"))
    tracking = "tracking: {wandb: {project: faults, mode: offline}}\n"
    (folder / "tracked.yaml").write_text(file.read_text() + tracking)
    (folder / "pictures.yaml").write_text(PICTURES_SPEC)
    write_image_folder(folder / "pictures")


def drop(store: Path, *what: str) -> None:
    """Take from a whole store of small.yaml what is to be run again: `level` is the last one of
    vanilla, `table` the teacher's with all that follows, `all` everything."""
    for kind in what:
        for folder in [*store.glob("levels/??/*"), *store.glob("tables/??/*")]:
            table = folder.parent.parent.name == "tables"
            identity = json.loads((folder / "identity.json").read_text())
            last = not table and identity["level"] == 1 and not identity["distillation"]
            taught = table or identity["distillation"]
            if kind == "all" or (kind == "level" and last) or (kind == "table" and taught):
                shutil.rmtree(folder)


def put_needless(store: Path) -> None:
    """Put a checkpoint of each finished level into a store."""
    (store / "inflight").mkdir(exist_ok=True)
    for level in store.glob("levels/??/*"):
        (store / "inflight" / level.name).write_bytes(b"of a level that is finished")


def leftovers(folder: Path) -> list[Path]:
    """Temporary files: what is hidden, but for W&B's own and what is in a home folder."""
    others = {"wandb", "absent"}
    found = [path for path in folder.rglob(".*") if not others & set(path.parts)]
    return [path.relative_to(folder) for path in found]


def other_user() -> tuple[str, ...] | None:
    """What runs a command as a user without a name, who may read all files; only root can."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return None
    caps = "+dac_override,+dac_read_search,+fowner"
    user = ("--reuid=12345", "--regid=12345", "--clear-groups")
    return ("setpriv", *user, f"--inh-caps={caps}", f"--ambient-caps={caps}")


def wait_for(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Raises FaultError where something does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        require(time.monotonic() < deadline, f"it never came: {what}")
        time.sleep(0.01)


# A job in the background of a shell ignores some signals, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

Attempt = Callable[[Bench, Path], str]
"""What a case does in a folder of its own; as in `Case`."""

BenchCase = tuple[str, Attempt]


def on_a_bench(cases: Callable[[Bench], Iterable[BenchCase]]) -> Callable[[Path], Iterator[Case]]:
    """The same cases, all tried on one bench."""

    def bound(root: Path) -> Iterator[Case]:
        bench = Bench(root / "bench")
        for name, attempt in cases(bench):
            yield name, partial(bench.tried, attempt)

    return bound
