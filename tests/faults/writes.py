"""Full and broken disks at each kind of write, and limits of what a process may have.

python -m tests.faults.writes [--each N] [WORD...]
python -m tests.faults.writes every [--each N]      an error at every single call of a run
"""

import errno
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .bench import (
    EXPORT,
    GC,
    GC_WEIGHTS,
    PICTURES,
    REPORT,
    RUN,
    STORE,
    TRACKED,
    Bench,
    BenchCase,
    Done,
    Fault,
    drop,
    leftovers,
    on_a_bench,
    other_user,
    put_needless,
)
from .cases import main, require

FIGURES = (*REPORT, "--figures", "figures")

ALL_CALLS = "create write fsync rename mkdir"

LEVEL_FILES = (
    "identity.json", "result.json", "environment.json", "epochs.jsonl", "weights.safetensors",
    "masks.safetensors", "checksums.json",
)  # fmt: skip


@dataclass(frozen=True)
class Write:
    """A kind of write: the command that does it, on which files, and in what its failure ends.

    `dropped` is missing of the store beforehand, `also` are calls beside those of a file.
    """

    command: tuple[str, ...]
    path: str
    code: int
    dropped: tuple[str, ...] = ()
    calls: str = "create write fsync rename"

    @property
    def faults(self) -> Iterator[tuple[str, Fault]]:
        """Each call fails once with EIO; what takes room also finds none, for good."""
        for call in self.calls.split():
            yield f"EIO at {call}", Fault(self.path, call, f"error:{errno.EIO}")
            if call in ("create", "write", "mkdir"):
                takes_room = "create write mkdir"
                for name in ("ENOSPC", "EDQUOT"):
                    do = f"full:{getattr(errno, name)}"
                    calls = call if call == "write" else takes_room
                    yield f"{name} from {call} on", Fault(self.path, calls, do)


LEVEL = ("level",)

WRITES = {
    "marker": Write(RUN, f"*/{STORE}/*store.json*", 2),
    "lock": Write(RUN, f"*/{STORE}/locks/*", 3, LEVEL, "create"),
    "log": Write(RUN, "*/logs/*.log", 0, LEVEL, "write"),
    "log's file": Write(RUN, "*/logs/*.log", 3, LEVEL, "create"),
    "event log": Write(RUN, "*/logs/*.jsonl", 0, LEVEL, "create write"),
    "MACs": Write(RUN, f"*/{STORE}/*macs.json*", 0, ("macs",)),
    "calibration": Write(RUN, f"*/{STORE}/*calibration.json*", 0, LEVEL),
    "checkpoint": Write(RUN, f"*/{STORE}/inflight/*", 3, LEVEL),
    "checkpoints' folder": Write(RUN, f"*/{STORE}/inflight*", 3, ("level", "inflight"), "mkdir"),
    "commit's folder": Write(RUN, "*/levels/??/*", 3, LEVEL, "mkdir rename"),
    "commit's flush": Write(RUN, "*/levels/??/.*[0-9a-f]", 3, LEVEL, "fsync"),
    **{
        f"commit's {name}": Write(RUN, f"*/levels/??/*/{name}", 3, LEVEL, "create write fsync")
        for name in LEVEL_FILES
    },
    "table": Write(RUN, "*/tables/??/*", 3, ("table",), ALL_CALLS),
    "W&B's folders": Write(TRACKED, f"*/{STORE}/wandb*", 0, LEVEL, "create write mkdir"),
    "W&B's journal": Write(TRACKED, f"*/{STORE}/tracking*", 0, LEVEL, ALL_CALLS),
    "prepared images": Write(PICTURES, "*/dsdctl-prepared/.*/*", 3, calls="create write fsync"),
    "prepared images' folder": Write(PICTURES, "*/dsdctl-prepared/.*[0-9a-f]", 3, calls="mkdir"),
    "prepared images' place": Write(PICTURES, "*/dsdctl-prepared/image*", 3, calls="rename"),
    "prepared images' lock": Write(PICTURES, "*/dsdctl-prepared/*.lock", 3, calls="create"),
    "report": Write((*REPORT, "--output", "r.md"), "*/*r.md*", 2),
    "graph": Write(("plan", "small.yaml", "--graph", "g.dot"), "*/*g.dot*", 2),
    "figures": Write(FIGURES, "*/figures/*", 2),
    "figures' folder": Write(FIGURES, "*/figures", 2, calls="mkdir"),
    "export": Write(EXPORT, "*/.out-*", 2, calls="create write fsync mkdir"),
    "export's place": Write(EXPORT, "*/out", 2, calls="rename"),
    "gc's checksums": Write(GC_WEIGHTS, "*checksums.json*", 3),
    "gc's deletion": Write(GC_WEIGHTS, "*/weights.safetensors", 3, calls="remove"),
    "gc's deletion of leftovers": Write(GC, "*/inflight/*", 3, ("needless",), "remove"),
    "dropped checkpoint": Write(RUN, "*/inflight/[0-9a-f]*", 3, LEVEL, "remove"),
    "set aside": Write(RUN, "*/setaside*", 3, ("damaged",), "mkdir rename"),
}


def prepare(folder: Path, dropped: tuple[str, ...]) -> None:
    """Take away what the command is to write, and leave what it is to delete."""
    store = folder / STORE
    drop(store, *dropped)
    for kind in dropped:
        level = next(iter(sorted(store.glob("levels/??/*"))))
        if kind == "macs":
            (store / "macs.json").unlink()
        elif kind == "inflight":
            shutil.rmtree(store / "inflight", ignore_errors=True)
        elif kind == "needless":
            put_needless(store)
        elif kind == "damaged":
            (level / "result.json").write_bytes(b"{}")


def try_write(write: Write, fault: Fault, bench: Bench, folder: Path) -> str:
    """Let the write fail, and then run the same command again."""
    prepare(folder, write.dropped)
    done = bench.run(folder, *write.command, fault=fault)
    calls = [path.read_text() for path in folder.glob("state-*.log")]
    require(calls, "no such call was made")
    judge(done, write.code)
    after(folder, write.command, done)
    again(bench, folder, write.command)
    said = done.err.strip().splitlines()
    telling = [line for line in said if "error: " in line or "warning: " in line]
    return f"exit code {done.code}, {(telling or said or ['nothing said'])[0]}"


def judge(done: Done, *codes: int) -> None:
    """One clear message, and the code that says what it is."""
    require(done.code in codes, f"exit code {done.code} instead of {codes}: {done.err}")
    # Where files may not grow, the last line may be cut off: what is said goes to one.
    whole = [line for line in done.err.splitlines(keepends=True) if line.endswith("\n")]
    errors = [line.strip() for line in whole if line.startswith("error: ")]
    errors = [line for line in errors if not line.endswith("is not complete")]
    if done.code == 3:
        require(len(errors) == 1, f"{len(errors)} messages: {done.err}")
        require("Errno" not in errors[0], f"not in words: {errors[0]}")
    if done.code == 2:
        require(len(done.err.splitlines()) == 1, f"not one message: {done.err}")


def after(folder: Path, command: tuple[str, ...], done: Done) -> None:
    """Nothing is half-written."""
    left = leftovers(folder)
    require(not left, f"half-written: {', '.join(map(str, left))}: {done.err}")
    results = [name for name in ("out", "r.md", "g.dot") if (folder / name).exists()]
    require(done.code == 0 or not results, f"{results} is there")


def again(bench: Bench, folder: Path, command: tuple[str, ...]) -> None:
    """The same command undisturbed completes, to the same bytes."""
    done = bench.run(folder, *command)
    require(done.code == 0, f"the next run ended with {done.code}: {done.err}")
    for aside in (folder / STORE).glob("setaside/*"):
        shutil.rmtree(aside)
    if command is PICTURES:
        left = leftovers(folder)
        require(not left, f"left behind: {', '.join(map(str, left))}")
    else:
        bench.check_whole(folder, without="weights.safetensors" if command is GC_WEIGHTS else "")


def try_every(number: int, bench: Bench, folder: Path) -> str:
    """The n-th call of any kind in the store fails."""
    drop(folder / STORE, "level")
    fault = Fault(f"*/{STORE}/*", ALL_CALLS + " remove", f"error:{errno.EIO}", number)
    done = bench.run(folder, *RUN, fault=fault)
    call = next(folder.glob("state-*.log")).read_text().splitlines()[number - 1]
    judge(done, 0, 2, 3)
    again(bench, folder, RUN)
    return f"{call.partition(STORE)[0].split()[0]} {call.partition(STORE)[2]}: {done.code}"


def calls_of_a_run(bench: Bench) -> int:
    """How many calls there are to fail."""
    folder = bench.folder / "count"
    bench.tried(partial(try_every, 0), folder)
    return len(next(folder.glob("state-*.log")).read_text().splitlines())


# Streams and small disks


def try_full_stream(stream: str, command: tuple[str, ...], bench: Bench, folder: Path) -> str:
    """Standard output or standard error is a file on a full disk."""
    drop(folder / STORE, "level")
    with open("/dev/full", "w") as full:
        done = bench.run(folder, *command, **{stream: full})
    if stream == "stdout":
        judge(done, 3)
    require(done.code in (0, 3), f"exit code {done.code}")
    again(bench, folder, RUN)
    return f"exit code {done.code}, {done.err.strip().splitlines()[-1:]}"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """A small file system in memory at `folder`, where that is permitted."""
    folder.mkdir(parents=True, exist_ok=True)
    line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    permitted = subprocess.run(line, capture_output=True, check=False).returncode == 0
    try:
        yield permitted
    finally:
        if permitted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def try_small_disk_for_tracker(pages: int, bench: Bench, folder: Path) -> str:
    """W&B's own program finds no room; it is no library, so that no shim is in it."""
    drop(folder / STORE, "level")
    with mounted(folder / STORE / "wandb", f"size={4 * pages}k") as permitted:
        if not permitted:
            return "not permitted here"
        done = bench.run(folder, *TRACKED)
        judge(done, 0)
        said = [line for line in done.err.splitlines() if line.startswith("W&B")]
        require(len(said) == 1, f"not one line about W&B: {done.err}")
    bench.check_whole(folder)
    return f"exit code 0, {said[0]}"


def try_small_disk(kib: int, bench: Bench, folder: Path) -> str:
    """A store on a disk of that size, from nothing; room lets it go on."""
    store = folder / "disk" / STORE
    with mounted(folder / "disk", f"size={kib}k") as permitted:
        if not permitted:
            return "not permitted here"
        done = bench.run(folder, *RUN, "--store", store)
        judge(done, 0, 2, 3)
        left = leftovers(folder)
        require(not left, f"half-written: {left}")
        line = ["mount", "-o", "remount,size=20m", str(folder / "disk")]
        subprocess.run(line, check=True)
        more = bench.run(folder, *RUN, "--store", store)
        require(more.code == 0, more.err)
        bench.check_whole(folder, f"disk/{STORE}")
    said = [line for line in done.err.splitlines() if "space" in line or "free" in line]
    return f"exit code {done.code}, {said[:1]}"


# Limits

ENDED_BY_LIBRARIES = ("OpenBLAS", "cannot allocate memory for thread-local data")
"""Words of those that end the process themselves where they cannot even be loaded."""


def try_limit(kind: int, most: int, command: tuple[str, ...], bench: Bench, folder: Path) -> str:
    """A command that may have no more of something; without the limit it goes on."""
    if command is RUN:
        drop(folder / STORE, "level")
    wrapper = other_user() if kind == resource.RLIMIT_NPROC else ()  # root has no such limit
    if wrapper is None:
        return "only root can try it"
    limit = partial(resource.setrlimit, kind, (most, most))
    done = bench.run(folder, *command, preexec_fn=limit, wrapper=wrapper)
    by_a_library = any(words in done.err for words in ENDED_BY_LIBRARIES)
    if done.code in (0, 2, 3) or not by_a_library:
        judge(done, 0, 2, 3)
    left = leftovers(folder)
    require(not left, f"half-written: {left}")
    if command is EXPORT and (folder / "out").exists():
        # Whole, or with all but ONNX (3); the same command would refuse to write over it.
        require((folder / "out" / "checksums.json").exists(), "half-written: out")
        bench.check_whole(folder)
    else:
        again(bench, folder, command)
    return f"exit code {done.code}, {(done.err.strip().splitlines() or [''])[0]}"


def cases(_bench: Bench) -> Iterator[BenchCase]:
    """All of them."""
    for name, write in WRITES.items():
        for what, fault in write.faults:
            yield f"{name}: {what}", partial(try_write, write, fault)
    for stream, command in (("stdout", RUN), ("stdout", REPORT), ("stderr", RUN)):
        what = f"{stream} of {command[0]} on a full disk"
        yield what, partial(try_full_stream, stream, command)
    for pages in (1, 2, 4, 8):
        what = f"{4 * pages} KiB for W&B's files"
        yield what, partial(try_small_disk_for_tracker, pages)
    for kib in (8, 48, 96, 144, 192):
        yield f"{kib} KiB for the store", partial(try_small_disk, kib)
    for most in (6, 10, 14, 20, 32):
        for command in (RUN, REPORT):
            what = f"{most} descriptors, {command[0]}"
            yield what, partial(try_limit, resource.RLIMIT_NOFILE, most, command)
    for most in (1, 2, 3, 5):
        yield f"{most} processes", partial(try_limit, resource.RLIMIT_NPROC, most, RUN)
    for most in (50, 100, 300, 600, 1200, 2400):
        for command in (RUN, EXPORT):
            what = f"{most} MB of address space, {command[0]}"
            yield what, partial(try_limit, resource.RLIMIT_AS, most * 10**6, command)
    for most in (500, 5000, 20_000):
        what = f"files of at most {most} bytes"
        yield what, partial(try_limit, resource.RLIMIT_FSIZE, most, RUN)


def every(bench: Bench) -> Iterator[BenchCase]:
    """Each single call of a run that has a level left."""
    for number in range(1, calls_of_a_run(bench) + 1):
        yield f"call {number}", partial(try_every, number)


if __name__ == "__main__":
    if "every" in sys.argv:
        sys.argv.remove("every")
        sys.exit(main("every write", on_a_bench(every)) != 0)
    sys.exit(main("writes", on_a_bench(cases)) != 0)
