"""Strange names, missing folders, other umasks and clocks, stores that are copied, moved or shared.

python -m tests.faults.places [--each N] [WORD...]
"""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
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
    wait_for,
)
from .cases import main, require

NAMES = {
    "spaces": " a  b ",
    "quotes": "'\"`$(x)\\",
    "a new line": "a\nb\tc",
    "250 bytes": "x" * 250,
    "no UTF-8": os.fsdecode(b"\xff\xfe\x80"),
    "accents": "h\u00e9 \u96ea",
    "markup": "[bold]a *?[a]",
    "a dash": "--store",
    "an escape": "\x1b[31mred",
}


def well(done: Done, *codes: int) -> Done:
    """Return it, if it ended so."""
    require(done.code in (codes or (0,)), f"exit code {done.code}: {done.err}")
    return done


def try_name(name: str, command: str, bench: Bench, folder: Path) -> str:
    """Everything in a folder of that name, and the store in another one below it."""
    if command != "report":
        drop(folder / STORE, "level")
    inside = folder / name
    inside.mkdir()
    for path in list(folder.iterdir()):
        if path != inside:
            path.rename(inside / path.name)
    (inside / STORE).rename(inside / name)
    store = ("--store", f"./{name}")
    if command == "report":
        well(bench.run(inside, *REPORT, *store))
        bench.check_whole(inside, name)
        return "report, check"
    line = (command, *RUN[1:]) if command == "run" else TRACKED
    first = well(bench.run(inside, *line, *store))
    require(not any(c in first.err for c in "\x1b\x07"), "an escape came through")
    for more in (("--output", f"{name}.html"[-200:]), ("--figures", name + "f"[len(name) > 249 :])):
        if len(name) < 240 or more[0] == "--output":
            well(bench.run(inside, *REPORT, *store, f"{more[0]}=./{more[1]}"))
    well(bench.run(inside, "status", "small.yaml", *store))
    well(bench.run(inside, "store", "list", *store))
    bench.check_whole(inside, name)
    return "run, report, figures, status, list, check"


def try_export(name: str, bench: Bench, folder: Path) -> str:
    line = ("export", "small.yaml", "--recipe", "vanilla", f"--output=./{name}")
    well(bench.run(folder, *line))
    require((folder / name / "model.onnx").is_file(), "nothing was written")
    well(bench.run(folder, *line), 2)
    require(not leftovers(folder), str(leftovers(folder)))
    return "exported; again: refused"


def try_pictures(name: str, bench: Bench, folder: Path) -> str:
    """Images below a folder of that name, where YAML can say it, prepared beside them."""
    inside = folder / name
    inside.mkdir()
    for part in ("pictures", "pictures.yaml"):
        (folder / part).rename(inside / part)
    well(bench.run(inside, *PICTURES))
    require(not leftovers(inside), str(leftovers(inside)))
    return "prepared and run"


def try_environment(
    changes: dict[str, str | None], nameless: bool, bench: Bench, folder: Path
) -> str:
    """Run, mirror to W&B, draw and export with such an environment, as such a user."""
    drop(folder / STORE, "level")
    wrapper = other_user() if nameless else ()
    if wrapper is None:
        return "only root can try it"
    environment = {k: v.replace("FOLDER", str(folder)) if v else v for k, v in changes.items()}
    options = {"environment": environment, "wrapper": wrapper}
    said = well(bench.run(folder, *TRACKED, **options)).err
    well(bench.run(folder, *REPORT, "--figures", "figures", **options))
    well(bench.run(folder, *EXPORT, **options))
    bench.check_whole(folder)
    lines = [line for line in said.splitlines() if line.startswith("W&B") or "warn" in line.lower()]
    require(len(lines) == 1, f"not one line about W&B: {said}")
    return f"run, figures and export; {lines[0][:60]}"


def try_deleted_folder(bench: Bench, folder: Path) -> str:
    """The working folder is gone before the command starts."""
    drop(folder / STORE, "level")

    def vanish() -> None:
        (folder / "gone").mkdir()
        os.chdir(folder / "gone")
        (folder / "gone").rmdir()

    absolute = (folder / "small.yaml", "--jobs", "1", "--store", folder / STORE)
    refused = well(bench.run(folder, "run", *absolute, preexec_fn=vanish), 3)
    require("could be started: No such file" in refused.err, refused.err)
    well(bench.run(folder, "run", *absolute))
    bench.check_whole(folder)
    for line in (("run", folder / "small.yaml"), ("report", "small.yaml"), ("store", "check")):
        done = well(bench.run(folder, *line, preexec_fn=vanish), 2)
        require(len(done.err.splitlines()) == 1, done.err)
    well(bench.run(folder, "report", absolute[0], *absolute[3:], preexec_fn=vanish))
    return "no worker, exit code 3; with a relative path 2"


def try_folder_deleted_meanwhile(bench: Bench, folder: Path) -> str:
    """The working folder goes while a level is trained; the store is elsewhere."""
    drop(folder / STORE, "level")
    (folder / "gone").mkdir()
    fault = Fault("*/inflight/*", "rename", "hold")
    absolute = (folder / "small.yaml", *RUN[2:], "--store", folder / STORE)
    options = {"preexec_fn": partial(os.chdir, folder / "gone")}
    started = bench.start(folder, "run", *absolute, fault=fault, **options)
    started.held()
    (folder / "gone").rmdir()
    started.release()
    well(started.ended())
    bench.check_whole(folder)
    return "run"


def try_umask(mask: int, bench: Bench, folder: Path) -> str:
    """A store that is made with another umask, and what it makes of the files' modes."""
    shutil.rmtree(folder / STORE)
    options = {"preexec_fn": partial(os.umask, mask)}
    well(bench.run(folder, *RUN, **options))
    well(bench.run(folder, *REPORT, "--output", "r.html", **options))
    bench.check_whole(folder)
    modes = {
        stat.S_IMODE(path.stat().st_mode) & 0o777
        for path in [*(folder / STORE).rglob("*"), folder / "r.html"]
    }
    require(modes <= {0o666 & ~mask, 0o777 & ~mask}, f"modes {[oct(mode) for mode in modes]}")
    return f"modes {sorted(oct(mode) for mode in modes)}"


def try_clock(off: str, bench: Bench, folder: Path) -> str:
    """Another time of day, or one that goes backwards, in all processes of a run."""
    drop(folder / STORE, "level")
    options = {"environment": {"LD_PRELOAD": str(bench.shim), "FAULT_CLOCK": off}}
    well(bench.run(folder, *TRACKED, **options))
    well(bench.run(folder, *GC, **options))
    well(bench.run(folder, *REPORT, "--output", "r.html", **options))
    bench.check_whole(folder)
    return "run, gc, report"


def try_future_files(bench: Bench, folder: Path) -> str:
    """All files are of next year, as after a clock was set back, and a checkpoint among them."""
    drop(folder / STORE, "level")
    fault = Fault("*/levels/??/.*", "mkdir", "signal:9")
    well(bench.run(folder, *RUN, fault=fault), 3)
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (time.time() + 3e7,) * 2)
    well(bench.run(folder, *RUN))
    well(bench.run(folder, *PICTURES, "--store", "pictured"))
    well(bench.run(folder, *GC))
    bench.check_whole(folder)
    return "killed, continued, gc"


def try_copy(path: str, calls: str, dropped: str, bench: Bench, folder: Path) -> str:
    """A copy that is made while a process is in the midst of a write is a store."""
    drop(folder / STORE, dropped)
    started = bench.start(folder, *RUN, fault=Fault(path, calls, "hold"))
    started.held()
    line = ["cp", "-r", folder / STORE, folder / "copy"]
    copied = subprocess.run(line, capture_output=True, text=True, check=False)
    started.release()
    well(started.ended())
    require(copied.returncode == 0, copied.stderr)
    well(bench.run(folder, "store", "check", "--store", "copy"))
    well(bench.run(folder, *REPORT, "--store", "copy"))
    well(bench.run(folder, *RUN, "--store", "copy"))
    well(bench.run(folder, *GC, "--store", "copy"))  # what no run writes again
    bench.check_whole(folder, "copy")
    bench.check_whole(folder)
    return "check, report, run, gc"


def try_copies(bench: Bench, folder: Path) -> str:
    """Copies that are made one after another while a run writes."""
    shutil.rmtree(folder / STORE)
    started, copies = bench.start(folder, *RUN), []
    wait_for(lambda: list((folder / STORE).glob("levels/??/*")), "a level")
    while started.process.poll() is None:
        copies.append(folder / f"copy-{len(copies)}")
        line = ["cp", "-r", folder / STORE, copies[-1]]
        subprocess.run(line, capture_output=True, check=False)  # what is gone meanwhile is said
        time.sleep(0.2)
    well(started.ended())
    for copy in copies:
        well(bench.run(folder, "store", "check", "--store", copy.name))
    for copy in copies[:: max(1, len(copies) // 3)]:
        well(bench.run(folder, *RUN, "--store", copy.name))
    for copy in copies:
        well(bench.run(folder, *GC, "--store", copy.name))
    for copy in copies[:: max(1, len(copies) // 3)]:
        bench.check_whole(folder, copy.name)
    return f"{len(copies)} copies"


def try_move(bench: Bench, folder: Path) -> str:
    """A store that was moved, journals of W&B and all, is used where it is now."""
    drop(folder / STORE, "level")
    well(bench.run(folder, *TRACKED))
    (folder / "elsewhere").mkdir()
    (folder / STORE).rename(folder / "elsewhere" / "moved")
    store = ("--store", "elsewhere/moved")
    drop(folder / "elsewhere" / "moved", "level")
    well(bench.run(folder, *TRACKED, *store))
    bench.check_whole(folder, "elsewhere/moved")
    for _ in range(2):  # first what the store held before it was mirrored
        said = well(bench.run(folder, "report", "tracked.yaml", "--wandb", *store)).err
    require(said == "W&B: nothing new to mirror\n", said)
    return "moved and used"


def try_gc_meanwhile(path: str, calls: str, dropped: str, bench: Bench, folder: Path) -> str:
    """`store gc` while a run is stopped in a write, since long ago by the times of its files."""
    drop(folder / STORE, dropped)
    started = bench.start(folder, *RUN, fault=Fault(path, calls, "hold"))
    holder = started.held()
    os.kill(holder, signal.SIGSTOP)
    started.release()
    written = leftovers(folder / STORE)
    for file in (folder / STORE).rglob("*"):
        os.utime(file, (0, 0), follow_symlinks=False)
    well(bench.run(folder, *GC))
    require(leftovers(folder / STORE) == written, "gc removed what a stopped process writes")
    os.kill(holder, signal.SIGCONT)
    well(started.ended())
    bench.check_whole(folder)
    return f"{len(written)} temporary files or folders stayed"


def try_two_and_gc(
    first: tuple[str, ...], second: tuple[str, ...], bench: Bench, folder: Path
) -> str:
    """Two drivers with other options on one store, and `store gc` over and over."""
    shutil.rmtree(folder / STORE)
    runs = [bench.start(folder, "run", "small.yaml", *options) for options in (first, second)]
    wait_for((folder / STORE / "store.json").exists, "the store")
    collections = 0
    while any(run.process.poll() is None for run in runs):
        well(bench.run(folder, *GC_WEIGHTS))
        collections += 1
    for run in runs:
        well(run.ended())
    well(bench.run(folder, *RUN))
    well(bench.run(folder, *GC_WEIGHTS))
    bench.check_whole(folder, without="weights.safetensors")
    return f"{collections} collections"


def cases(_bench: Bench) -> Iterator[BenchCase]:
    """All of them."""
    for what, name in NAMES.items():
        yield f"a name with {what}", partial(try_name, name, "run")
        yield f"reading below a name with {what}", partial(try_name, name, "report")
        yield f"W&B below a name with {what}", partial(try_name, name, "tracked")
        yield f"an export of a name with {what}", partial(try_export, name)
        yield f"images below a name with {what}", partial(try_pictures, name)
    nowhere = "FOLDER/absent"
    environments: dict[str, dict[str, str | None]] = {
        "no HOME": {"HOME": None},
        "HOME absent": {"HOME": nowhere},
        "HOME empty": {"HOME": ""},
        "TMPDIR absent": {"TMPDIR": nowhere},
        "TMPDIR a file": {"TMPDIR": "FOLDER/small.yaml"},
        "neither": {"HOME": nowhere, "TMPDIR": nowhere, "USER": None, "LOGNAME": None},
        "an ASCII locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    }
    for name, changes in environments.items():
        yield name, partial(try_environment, changes, False)
    for name in ("no HOME", "neither"):
        yield (
            f"{name}, a user without a name",
            partial(try_environment, environments[name], True),
        )
    yield "working folder deleted", try_deleted_folder
    yield "working folder deleted meanwhile", try_folder_deleted_meanwhile
    for mask in (0o077, 0o000, 0o027):
        yield f"umask {mask:03o}", partial(try_umask, mask)
    for off in ("-1000000000", "100000000", "/-3600"):
        yield f"clock {off}", partial(try_clock, off)
    yield "files of the future", try_future_files
    moments = {
        "a checkpoint is written": ("*/inflight/.*", "write", "level"),
        "a checkpoint is renamed": ("*/inflight/*", "rename", "level"),
        "a level is written": ("*/levels/??/*/masks.safetensors", "write", "level"),
        "a level is renamed": ("*/levels/??/*", "rename", "level"),
        "a table is written": ("*/tables/??/*/logits.safetensors", "write", "table"),
        "the rates are kept": ("*calibration.json*", "rename", "level"),
    }
    for what, moment in moments.items():
        yield f"copied while {what}", partial(try_copy, *moment)
        yield f"gc while {what}", partial(try_gc_meanwhile, *moment)
    yield "copied all the time", try_copies
    yield "moved", try_move
    options: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        (("--jobs", "1", "--checkpoint-every", "0"), ("--jobs", "2", "--checkpoint-every", "inf")),
        (("--jobs", "1", "--recipe", "vanilla"), ("--jobs", "1", "--grace", "0")),
    ]
    for number, (first, second) in enumerate(options, 1):
        yield f"two runs and gc, {number}", partial(try_two_and_gc, first, second)


if __name__ == "__main__":
    sys.exit(main("places", on_a_bench(cases)) != 0)
