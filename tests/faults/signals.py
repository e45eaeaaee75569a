"""Signals to each process at each moment, closed terminals, readers that stop.

python -m tests.faults.signals [--each N] [WORD...]
"""

import os
import pty
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
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
    Fault,
    Started,
    drop,
    leftovers,
    on_a_bench,
    put_needless,
    wait_for,
)
from .cases import main, require

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
"""What each ends in, by docs/running.md."""


@dataclass(frozen=True)
class Moment:
    """A command, and where the shim holds it; `dropped` is missing of the store beforehand."""

    command: tuple[str, ...]
    path: str
    calls: str
    dropped: tuple[str, ...] = ()
    at: int = 1

    @property
    def fault(self) -> Fault:
        return Fault(self.path, self.calls, "hold", self.at)


MOMENTS = {
    "while it starts": Moment(RUN, "*/dsdctl/cli/__pycache__/app.*", "open"),
    "while it is imported": Moment(RUN, "*/dsdctl/plan/__pycache__/plan.*", "open"),
    "before a worker": Moment(RUN, f"*/{STORE}/store.json", "rename"),
    "while a worker starts": Moment(RUN, "*/dsdctl/worker/__pycache__/level.*", "open", ("level",)),
    "training": Moment(RUN, "*/inflight/*", "rename", ("level",)),
    "committing a level": Moment(RUN, "*/levels/??/*", "rename", ("level",)),
    "building a table": Moment(RUN, "*/tables/??/.*", "mkdir", ("table",)),
    "preparing": Moment(PICTURES, "*/dsdctl-prepared/.*/train*", "write"),
    "writing a report": Moment((*REPORT, "--output", "r.md"), "*r.md*", "write"),
    "drawing figures": Moment((*REPORT, "--figures", "figures"), "*/figures/*.png*", "write"),
    "exporting": Moment(EXPORT, "*out*/model.onnx", "write"),
    "dropping weights": Moment(GC_WEIGHTS, "*/checksums.json", "rename"),
    "deleting weights": Moment(GC_WEIGHTS, "*/weights.safetensors", "remove"),
    "deleting leftovers": Moment(GC, "*/inflight/*", "remove"),
    "checking": Moment(("store", "check"), "*/weights.safetensors", "open"),
}


def try_signal(
    moment: Moment, whom: str, number: signal.Signals, times: int, bench: Bench, folder: Path
) -> str:
    """Hold the command at a moment, send the signal, and then run the same command again."""
    prepare(moment, folder)
    started = bench.start(folder, *moment.command, fault=moment.fault)
    holder = started.held()
    for _ in range(times):
        send(started, holder, whom, number)
        time.sleep(0.3 if times > 1 else 0.05)
    started.release()
    done = started.ended()
    allowed = codes(whom, number)
    if moment is MOMENTS["committing a level"]:
        allowed |= {0} if whom == "worker" else set()  # all is done by then
    require(done.code in allowed, f"exit code {done.code} instead of {allowed}: {done.err}")
    said = done.err.strip().splitlines()
    check_again(bench, folder, moment)
    return f"exit code {done.code}, {said[-1] if said else 'nothing said'}"


def send(started: Started, holder: int, whom: str, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        if whom == "group":
            os.killpg(started.process.pid, number)
        elif whom == "driver":
            started.process.send_signal(number)
        else:
            require(holder != started.process.pid, "the driver was held")
            os.kill(holder, number)


def codes(whom: str, number: signal.Signals) -> set[int]:
    """In what a signal may end; workers leave all but SIGTERM to the driver."""
    if number == signal.SIGKILL:
        return {3} if whom == "worker" else {137}
    if whom == "worker":
        return {3} if number == signal.SIGTERM else {0}
    return {CODES[number]}


def prepare(moment: Moment, folder: Path) -> None:
    """Take away what the command is to do, and leave what it is to delete."""
    drop(folder / STORE, *moment.dropped)
    if moment.command == GC:
        put_needless(folder / STORE)


def check_again(bench: Bench, folder: Path, moment: Moment) -> None:
    """Run the same command undisturbed: it gives what it always gives, and leaves nothing else."""
    half = [path for path in ("out", "r.md") if (folder / path).exists()]
    require(not half, f"{half} is there after an interruption")
    again = bench.run(folder, *moment.command)
    require(again.code == 0, f"the next run ended with {again.code}: {again.err}")
    if moment.command == PICTURES:
        left = leftovers(folder)
        require(not left, f"left behind: {', '.join(map(str, left))}")
    else:
        bench.check_whole(
            folder, without="weights.safetensors" if moment.command == GC_WEIGHTS else ""
        )


# Other than signals at a moment


def try_stopping(whom: str, bench: Bench, folder: Path) -> str:
    """Stop a process for a while and let it go on: nothing is different."""
    drop(folder / STORE, "level")
    started = bench.start(folder, *RUN, fault=MOMENTS["training"].fault)
    holder = started.held()
    send(started, holder, whom, signal.SIGSTOP)
    started.release()
    time.sleep(1)
    send(started, holder, whom, signal.SIGCONT)
    done = started.ended()
    require(done.code == 0, f"exit code {done.code}: {done.err}")
    bench.check_whole(folder)
    return "exit code 0, the same bytes"


def try_stopped_worker(bench: Bench, folder: Path) -> str:
    """A worker that is stopped for good is killed once its grace is over."""
    drop(folder / STORE, "level")
    started = bench.start(folder, *RUN, "--grace", "0.5", fault=MOMENTS["training"].fault)
    os.kill(started.held(), signal.SIGSTOP)
    started.process.terminate()
    done = started.ended()
    require(done.code == 143, f"exit code {done.code}: {done.err}")
    check_again(bench, folder, MOMENTS["training"])
    return "exit code 143"


def try_kill(moment: str, whom: str, bench: Bench, folder: Path) -> str:
    return try_signal(MOMENTS[moment], whom, signal.SIGKILL, 1, bench, folder)


def try_tracker(number: signal.Signals, whom: str, bench: Bench, folder: Path) -> str:
    """A signal to W&B's process, or to its client's service, costs the mirror at most."""
    drop(folder / STORE, "level")
    fault = Fault("*/levels/??/.*/weights.safetensors", "create", "hold")
    started = bench.start(folder, *TRACKED, fault=fault)
    started.held()
    mirror = folder / STORE / "wandb"
    started.release()
    process = started.process
    wait_for(lambda: list(mirror.glob("wandb/off*")) or process.poll() is not None, "W&B")
    victims = [pid for pid in started.members() if whom in command_of(pid)]
    for pid in victims:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    done = started.ended()
    require(done.code == 0, f"exit code {done.code}: {done.err}")
    bench.check_whole(folder)
    again = bench.run(folder, "report", "tracked.yaml", "--wandb")
    require(again.code == 0, again.err)
    said = [line for line in done.err.splitlines() if line.startswith("W&B")]
    return f"{len(victims)} hit, exit code 0, {said}"


def command_of(pid: int) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return line


def try_terminal(moment: Moment, bench: Bench, folder: Path) -> str:
    """The terminal is closed: what ran in it ends as by SIGTERM, and leaves a checkpoint."""
    prepare(moment, folder)
    master, terminal = pty.openpty()
    started = bench.start(
        folder, *moment.command, fault=moment.fault,
        stdin=terminal, stdout=terminal, stderr=terminal,
        preexec_fn=partial(own_terminal, terminal),
    )  # fmt: skip
    os.close(terminal)
    started.held()
    os.close(master)
    time.sleep(0.2)
    started.release()
    done = started.ended()
    require(done.code == 129, f"exit code {done.code}")
    if moment is MOMENTS["training"]:
        kept = list((folder / STORE / "inflight").glob("[0-9a-f]*"))
        require(kept, "no checkpoint was left")
    check_again(bench, folder, moment)
    return "exit code 129"


def own_terminal(terminal: int) -> None:
    """Make it the controlling terminal of the new session, as a terminal's window does."""
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def try_nohup(bench: Bench, folder: Path) -> str:
    """Who said nohup keeps the run going when the terminal closes."""
    drop(folder / STORE, "level")
    started = bench.start(
        folder, *RUN, fault=MOMENTS["training"].fault,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )  # fmt: skip
    started.held()
    os.killpg(started.process.pid, signal.SIGHUP)
    started.release()
    done = started.ended()
    require(done.code == 0, f"exit code {done.code}: {done.err}")
    bench.check_whole(folder)
    return "exit code 0"


def try_closed(
    streams: tuple[int, ...], command: tuple[str, ...], bench: Bench, folder: Path
) -> str:
    """A stream that is closed from the start: no file of the store may get its number."""
    drop(folder / STORE, "level")
    line = " ".join((sys.executable, "-m", "dsdctl", *command, *(f"{n}>&-" for n in streams)))
    started = Started(folder, line=["sh", "-c", f"exec {line}"])
    done = started.ended()
    allowed = {1} if 1 in streams else {0}
    require(done.code in allowed, f"exit code {done.code} instead of {allowed}: {done.err}")
    check_again(bench, folder, Moment(RUN, "", ""))
    return f"exit code {done.code}, {done.err.strip().splitlines()[-1:]}"


def try_reader_gone(stream: str, command: tuple[str, ...], bench: Bench, folder: Path) -> str:
    """A reader that has ended, as of `| head -1`."""
    drop(folder / STORE, "level")
    reader, writer = os.pipe()
    started = bench.start(folder, *command, **{stream: writer})
    os.close(writer)
    os.close(reader)
    done = started.ended()
    require(done.code == 1, f"exit code {done.code}: {done.err}")
    check_again(bench, folder, Moment(RUN, "", ""))
    return f"exit code 1, {done.err.strip().splitlines()[-1:]}"


def try_reader_stops(number: signal.Signals, bench: Bench, folder: Path) -> str:
    """A reader that reads no more but is there: the run waits, and yet can be ended."""
    drop(folder / STORE, "all")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    started = bench.start(folder, *RUN, stderr=writer)
    os.close(writer)
    wait_for(lambda: list((folder / STORE).glob("levels/??/*")), "a level")
    time.sleep(1)
    started.process.send_signal(number)
    done = started.ended()
    os.close(reader)
    require(done.code == CODES[number], f"exit code {done.code}")
    check_again(bench, folder, Moment(RUN, "", ""))
    return f"exit code {done.code}"


def cases(_bench: Bench) -> Iterator[BenchCase]:
    """All of them."""
    for name, moment in MOMENTS.items():
        for whom in ("driver", "group"):
            for number in CODES:
                for times in (1, 2):
                    what = f"{name}: {number.name} to the {whom}" + ", twice" * (times == 2)
                    yield what, partial(try_signal, moment, whom, number, times)
        yield f"{name}: SIGKILL to the group", partial(try_kill, name, "group")
    for name in ("training", "committing a level", "building a table", "while a worker starts"):
        for number in (*CODES, signal.SIGKILL):
            what = f"{name}: {number.name} to the worker"
            yield what, partial(try_signal, MOMENTS[name], "worker", number, 1)
    for whom in ("driver", "worker", "group"):
        yield f"SIGSTOP and SIGCONT to the {whom}", partial(try_stopping, whom)
    yield "SIGTERM while the worker is stopped", try_stopped_worker
    for name in ("training", "writing a report", "preparing", "exporting"):
        yield f"the terminal is closed {name}", partial(try_terminal, MOMENTS[name])
    yield "nohup", try_nohup
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGHUP):
        for whom in ("spawn_main", "wandb-core"):
            yield f"{number.name} to {whom} of W&B", partial(try_tracker, number, whom)
    for command in (RUN, REPORT, ("store", "list"), ("plan", "small.yaml")):
        what = " ".join(command[:2])
        for streams in ((1,), (2,), (0, 1, 2)):
            closed = " and ".join(map(str, streams))
            yield f"{what}, closed: {closed}", partial(try_closed, streams, command)
        yield f"{what}, nobody reads stdout", partial(try_reader_gone, "stdout", command)
    yield "run, nobody reads stderr", partial(try_reader_gone, "stderr", RUN)
    for number in CODES:
        yield f"run, its reader stops, {number.name}", partial(try_reader_stops, number)


if __name__ == "__main__":
    sys.exit(main("signals", on_a_bench(cases)) != 0)
