"""Weights & Biases as a mirror of the store: in a process of its own, never waited for long.

The store is the record. Whatever happens to the tracker (no network, a server that hangs, a crash
of its client) costs a run nothing but this mirror, and is said once. Journals in the store keep
which levels W&B has and which are in its offline files, so that a second run mirrors nothing twice
and a replay sends what no server has seen.
"""

import logging
import multiprocessing
import netrc
import os
import queue
import time
import zlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlparse

from dsdctl.errors import in_words
from dsdctl.fields import Model
from dsdctl.processes import end_with_parent, held_back, take_signals
from dsdctl.spec import Wandb
from dsdctl.store import Store

if TYPE_CHECKING:
    from wandb import Run

JOURNAL = "tracking/wandb.json"
"""What W&B has: the levels of each run, and a checksum of each comparison."""

OFFLINE_JOURNAL = "tracking/wandb-offline.json"
"""The same of its files on this machine, which may never be uploaded."""

ATTACHED = "attached"
"""The folder beside W&B's own in which lie the files that its runs refer to."""

KEPT = "the store holds everything, `dsdctl report SPEC --wandb` sends what is missing"

FLUSHED_SECONDS = 2.0
"""After how long what was logged offline is on the disk; the client is told to flush it sooner."""

INIT_SECONDS = 20.0
"""How long to wait for the server before going on offline."""

FINISH_SECONDS = 60.0
"""How long a finished run waits for the mirror."""


class RunInfo(Model):
    """A trajectory, or a comparison, as a tracked run: `run_id` is its own, `experiment` the
    group."""

    run_id: str
    experiment: str
    name: str
    job_type: str
    config: dict[str, Any]


Rows = list[Sequence[float | str | None]]


@dataclass(frozen=True)
class ChosenNetwork:
    """A level that a row reports, as an artifact: its files, and what a reader must know of it."""

    name: str
    files: tuple[str, ...]
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Attached:
    """What an experiment's comparison consists of: tables (headings and rows), images as PNG and
    files as text, all by name, and networks."""

    experiment: str
    tables: Mapping[str, tuple[Sequence[str], Rows]]
    images: Mapping[str, bytes]
    files: Mapping[str, str]
    networks: tuple[ChosenNetwork, ...] = ()

    @property
    def digest(self) -> int:
        """What changes with the results."""
        return zlib.crc32(repr((self.tables, self.networks)).encode())


class Mirror:
    """Sends levels and tables to a W&B process; no method blocks on it but `finish`, and none
    raises."""

    def __init__(self, settings: Wandb, store: Path):
        self._failure = ""
        try:
            context = multiprocessing.get_context("spawn")
            self._messages: multiprocessing.Queue[tuple[Any, ...]] = context.Queue()
            # A run that is interrupted does not finish, and must not wait at its end for a thread
            # that writes to a pipe which nobody reads any more.
            self._messages.cancel_join_thread()
            self._answer, remote = context.Pipe(duplex=False)
            inside = (
                settings.model_dump_json(),
                str(store),
                self._messages,
                remote,
                os.getpid(),
            )
            self._process = context.Process(target=_mirror_process, args=inside, daemon=True)
            with held_back():
                self._process.start()
            remote.close()
        except (OSError, RuntimeError, MemoryError) as error:  # no room for one more process
            self._failure = in_words(error) or str(error)

    def level(self, run: RunInfo, record: Mapping[str, Any]) -> None:
        """Mirror one finished level of a trajectory."""
        self._put("level", run.model_dump_json(), dict(record))

    def attach(self, attached: Attached) -> None:
        """Mirror the comparison with all that belongs to it."""
        self._put("attach", attached)

    def finish(self, seconds: float = FINISH_SECONDS) -> str:
        """End the mirror and return the one line to tell the user; never waits longer."""
        self._put("end")
        if self._failure:
            return f"W&B: {self._failure}; {KEPT}"
        said = f"W&B: no answer within {seconds:.0f} s; {KEPT}"
        try:
            if self._answer.poll(seconds):
                said = self._answer.recv()
        except (EOFError, OSError):
            said = f"W&B: its client died; {KEPT}"
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
        return said

    def _put(self, *message: Any) -> None:
        if self._failure:
            return
        try:
            self._messages.put(message)
        except (OSError, RuntimeError, ValueError) as error:  # its thread cannot be started, say
            self._failure = in_words(error) or str(error)


def _mirror_process(
    settings: str,
    store: str,
    messages: "queue.Queue[tuple[Any, ...]]",
    answer: Connection,
    parent: int,
) -> None:
    """Take messages until the end; a failure ends the mirroring, and is answered in one line."""
    take_signals()
    end_with_parent(parent)
    logging.raiseExceptions = False  # the client's own log, on a full disk, is not the user's
    client = _Client(Wandb.model_validate_json(settings), Store(Path(store)))
    failure = ""
    try:
        while _take(messages, client):
            pass
    except Exception as error:  # whatever the client of a foreign service comes up with
        failure = _one_line(error)
    failure = client.close() or failure
    answer.send(f"W&B: {failure}; {KEPT}" if failure else client.summary())


def _take(messages: "queue.Queue[tuple[Any, ...]]", client: "_Client") -> bool:
    """Pass one message on, or use the pause between two; say whether more may come."""
    try:
        kind, *content = messages.get(timeout=FLUSHED_SECONDS)
    except queue.Empty:
        client.confirm_offline()
        return True
    match kind:
        case "level":
            client.level(*content)
        case "attach":
            client.attach(*content)
    return bool(kind != "end")


def _one_line(error: Exception) -> str:
    words = in_words(error) if isinstance(error, OSError) else None
    return words or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class _Client:
    """The W&B client inside its process: a run per trajectory, opened when first needed.

    A level is written to the journal once W&B has it for certain: offline when its file was
    flushed, online when its run was uploaded to the end. What is sent twice after a crash has the
    same run and step, and W&B keeps one.
    """

    def __init__(self, settings: Wandb, store: Store):
        self._settings = settings
        self._store = store
        self._folder = store.root.resolve() / "wandb"
        self._runs: dict[str, Run] = {}
        self._uploaded = read_journal(store, JOURNAL)
        self._offline = read_journal(store, OFFLINE_JOURNAL)
        self._sent: dict[str, set[int]] = {}
        self._uploading: set[str] = set()
        self._online = effective_mode(settings.mode, os.environ) == "online"
        refused = wished_mode(settings.mode, os.environ) == "online" and not self._online
        self._why_offline = "there is no key, `wandb login` asks for one" if refused else ""

    def level(self, run_json: str, record: dict[str, Any]) -> None:
        info = RunInfo.model_validate_json(run_json)
        level = int(record["level"])
        if self._has(info.run_id, level):
            return
        if info.run_id not in self._runs:
            run = self._open(info, level)
            if run is None:
                return
            self._runs[info.run_id] = run
        scalars = {k: v for k, v in record.items() if isinstance(v, int | float)}
        self._runs[info.run_id].log(scalars, step=level)
        self._sent.setdefault(info.run_id, set()).add(level)

    def attach(self, attached: Attached) -> None:
        info = RunInfo(
            run_id=f"{attached.experiment}-comparison",
            experiment=attached.experiment,
            name="comparison",
            job_type="report",
            config={},
        )
        if self._has(info.run_id, attached.digest):
            return
        run = self._open(info, attached.digest)
        if run is None:
            return
        self._runs[info.run_id] = run
        # A file of an offline run does not know how often its run was continued before.
        before = set[int]().union(
            *(journal.get(info.run_id, ()) for journal in (self._uploaded, self._offline))
        )
        step = len(before - {attached.digest})
        _log_attached(run, attached, self._folder / ATTACHED / attached.experiment, step)
        self._sent.setdefault(info.run_id, set()).add(attached.digest)

    def _has(self, run_id: str, item: int) -> bool:
        journals = [self._uploaded, self._sent] + [self._offline] * (not self._online)
        return any(item in journal.get(run_id, ()) for journal in journals)

    def confirm_offline(self) -> None:
        """Write to the journal what was sent some seconds ago and so is on the disk by now."""
        self._confirm(self._sent.keys() - self._uploading)

    def close(self) -> str:
        """End all runs; return what went wrong, if anything."""
        failure = ""
        for run_id, run in self._runs.items():
            try:
                run.finish()
                self._confirm({run_id})
            except TimeoutError:  # so will the others
                return f"not all of {self._settings.project} could be uploaded"
            except Exception as error:
                failure = _one_line(error)
        return failure

    def _confirm(self, run_ids: Set[str]) -> None:
        for run_id in run_ids & self._sent.keys():
            new = {run_id: self._sent.pop(run_id)}
            uploaded = run_id in self._uploading
            _merge(self._uploaded if uploaded else self._offline, new)
            add_to_journal(self._store, JOURNAL if uploaded else OFFLINE_JOURNAL, new)

    def summary(self) -> str:
        if not self._runs:
            return "W&B: nothing new to mirror"
        if self._online:
            return f"W&B: online, project {self._settings.project}"
        why = f" ({self._why_offline})" if self._why_offline else ""
        sync = f"`wandb sync {self._folder}/wandb/offline-run-*`"
        return f"W&B: offline{why}; {sync} uploads it, or later `dsdctl report SPEC --wandb`"

    def _open(self, info: RunInfo, item: int) -> "Run | None":
        """Begin or continue a run; None where only offline files can be written and have `item`."""
        if self._online:
            try:
                run = self._init("online", info)
                self._uploading.add(info.run_id)
                return run
            except Exception as error:  # no network, a refused key, a server that hangs
                self._go_offline(" ".join(str(error).split())[:120])
        if self._has(info.run_id, item):
            return None
        return self._init("offline", info)

    def _go_offline(self, why: str) -> None:
        """End the client's service, which holds the run that could not begin for one in use.

        The other runs end with it. What they sent is not taken for uploaded, but sent again.
        """
        import wandb

        self._online, self._why_offline = False, why
        for run_id in self._uploading:
            self._runs.pop(run_id, None)
            self._sent.pop(run_id, None)
        self._uploading.clear()
        wandb.teardown()

    def _init(self, mode: Literal["online", "offline"], info: RunInfo) -> "Run":
        if mode == "offline":
            # As an argument alone it would still look up the vendor's host.
            os.environ["WANDB_MODE"] = "offline"
        if not os.environ.get("HOME"):  # where its service would have its cache; else it complains
            os.environ["HOME"] = str(self._folder)
        os.environ["WANDB_SILENT"] = "true"  # as an argument it comes after the login
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self._settings.project,
            entity=self._settings.entity,
            tags=list(self._settings.tags),
            id=info.run_id,
            resume="allow" if mode == "online" else None,
            group=self._settings.group or info.experiment,
            name=info.name,
            job_type=info.job_type,
            config=info.config,
            dir=str(self._folder),
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
                x_transaction_log_flush_interval=0.2,
                init_timeout=INIT_SECONDS,
                finish_timeout=FINISH_SECONDS / 2,
                finish_timeout_raises=True,
            ),
        )


def _log_attached(run: "Run", attached: Attached, folder: Path, step: int) -> None:
    """Log tables, images, files and networks; images that a run refers to stay in `folder`."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    logged: dict[str, Any] = {
        name: wandb.Table(columns=[*headings], data=[[*row] for row in rows])
        for name, (headings, rows) in attached.tables.items()
    }
    for name, content in attached.images.items():
        file = folder / f"{name}.png"
        file.write_bytes(content)
        logged[name] = wandb.Image(str(file))
    run.log(logged, step=step)
    # Where the client would only link to them, with a warning each.
    inside = Path(run.settings.files_dir)
    inside.mkdir(parents=True, exist_ok=True)
    for name, text in attached.files.items():
        file = inside / name
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
        run.save(str(file), base_path=str(inside), policy="now", glob=False)
    for network in attached.networks:
        artifact = wandb.Artifact(network.name, type="model", metadata=dict(network.about))
        for path in network.files:
            artifact.add_file(path)
        run.log_artifact(artifact)


Journal = dict[str, set[int]]
"""What was mirrored by run: levels, or checksums of comparisons."""


def read_journal(store: Store, name: str) -> Journal:
    """A journal of a store; empty where it is none."""
    runs = store.read_json(name) or {}
    return {run_id: set(items) for run_id, items in runs.items() if isinstance(items, list)}


def add_to_journal(store: Store, name: str, new: Journal) -> None:
    """Add to a journal, which mirrors of several runs may share."""
    for _ in range(100):
        with store.lock("tracking") as locked:
            if locked:
                journal = read_journal(store, name)
                _merge(journal, new)
                store.write_json(name, {k: sorted(v) for k, v in journal.items()})
                return
        time.sleep(0.1)


def _merge(journal: Journal, new: Journal) -> None:
    for run_id, items in new.items():
        journal.setdefault(run_id, set()).update(items)


def wished_mode(mode: str, environment: Mapping[str, str]) -> str:
    """What the spec says, else $WANDB_MODE."""
    return environment.get("WANDB_MODE", "auto") if mode == "auto" else mode


def effective_mode(mode: str, environment: Mapping[str, str]) -> str:
    """`online`, `offline` or `disabled`: what is wished, as far as there is a key."""
    wished = wished_mode(mode, environment)
    if wished in ("disabled", "offline"):
        return wished
    return "online" if _has_key(environment) else "offline"


def _has_key(environment: Mapping[str, str]) -> bool:
    """Look for a key where `wandb login` puts it, and in $WANDB_API_KEY.

    The client itself would ask for one on a terminal, and wait for ever.
    """
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        file = environment.get("NETRC") or str(Path("~/.netrc").expanduser())
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, RuntimeError, netrc.NetrcParseError):  # a user without a home folder, say
        return False
