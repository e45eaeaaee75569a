"""Weights & Biases as a mirror of the store: in a process of its own, never waited for long.

The store is the record. Whatever happens to the tracker (no network, a server that hangs, a crash
of its client) costs a run nothing but this mirror, and is said once. A journal in the store keeps
which levels were mirrored, so that a second run mirrors nothing twice.
"""

import multiprocessing
import netrc
import os
import queue
import zlib
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from dsdctl.fields import Model
from dsdctl.spec import Wandb
from dsdctl.store import Store

if TYPE_CHECKING:
    from wandb import Run

JOURNAL = "tracking/wandb.json"
"""What was mirrored: the last level of each run, and a checksum of each comparison."""

INIT_SECONDS = 20.0
"""How long to wait for the server before going on offline."""

FINISH_SECONDS = 60.0
"""How long a finished run waits for the mirror."""


class RunInfo(Model):
    """A trajectory as a tracked run: `run_id` is its own, `experiment` the group."""

    run_id: str
    experiment: str
    name: str
    job_type: str
    config: dict[str, Any]


class Mirror:
    """Sends levels and tables to a W&B process; no method blocks on it but `finish`."""

    def __init__(self, settings: Wandb, store: Path):
        context = multiprocessing.get_context("spawn")
        self._messages: multiprocessing.Queue[tuple[Any, ...]] = context.Queue()
        self._answer, remote = context.Pipe(duplex=False)
        arguments = (settings.model_dump_json(), str(store), self._messages, remote)
        self._process = context.Process(target=_mirror_process, args=arguments, daemon=True)
        self._process.start()
        remote.close()

    def level(self, run: RunInfo, record: Mapping[str, Any]) -> None:
        """Mirror one finished level of a trajectory."""
        self._messages.put(("level", run.model_dump_json(), dict(record)))

    def table(
        self, experiment: str, headings: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        """Mirror the comparison as a table."""
        self._messages.put(("table", experiment, list(headings), [list(row) for row in rows]))

    def finish(self, seconds: float = FINISH_SECONDS) -> str:
        """End the mirror and return the one line to tell the user; never waits longer."""
        self._messages.put(("end",))
        said = f"W&B: no answer within {seconds:.0f} s; the store holds everything"
        try:
            if self._answer.poll(seconds):
                said = self._answer.recv()
        except EOFError:
            said = "W&B: its client died; the store holds everything"
        self._messages.cancel_join_thread()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
        return said


def _mirror_process(
    settings: str, store: str, messages: "queue.Queue[tuple[Any, ...]]", answer: Connection
) -> None:
    """Take messages until the end; a failure ends the mirroring, and is answered in one line."""
    client = _Client(Wandb.model_validate_json(settings), Store(Path(store)))
    failure = ""
    while True:
        kind, *content = messages.get()
        if kind == "end":
            break
        if failure:
            continue
        try:
            getattr(client, kind)(*content)
        except Exception as error:  # whatever the client of a foreign service comes up with
            failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    try:
        client.close()
    except Exception as error:
        failure = failure or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    answer.send(f"W&B: {failure}; the store holds everything" if failure else client.summary())


class _Client:
    """The W&B client inside its process: a run per trajectory, opened when first needed."""

    def __init__(self, settings: Wandb, store: Store):
        self._settings = settings
        self._store = store
        self._folder = store.root.resolve() / "wandb"
        self._runs: dict[str, Run] = {}
        self._journal: dict[str, int] = store.read_json(JOURNAL) or {}
        self._online = effective_mode(settings.mode, os.environ) == "online"
        self._why_offline = ""

    def level(self, run_json: str, record: dict[str, Any]) -> None:
        info = RunInfo.model_validate_json(run_json)
        level = int(record["level"])
        if level <= self._journal.get(info.run_id, -1):
            return
        if info.run_id not in self._runs:
            self._runs[info.run_id] = self._open(
                info.run_id, info.experiment, info.name, info.job_type, info.config
            )
        scalars = {k: v for k, v in record.items() if isinstance(v, int | float)}
        self._runs[info.run_id].log(scalars, step=level)
        self._journal[info.run_id] = level
        self._store.write_json(JOURNAL, self._journal)

    def table(self, experiment: str, headings: list[str], rows: list[list[str]]) -> None:
        import wandb

        digest = zlib.crc32(repr((headings, rows)).encode())
        if self._journal.get(f"{experiment}-comparison") == digest:
            return
        run = self._open(f"{experiment}-comparison", experiment, "comparison", "report", {})
        run.log({"comparison": wandb.Table(columns=[*headings], data=rows)})
        self._runs["comparison"] = run
        self._journal[f"{experiment}-comparison"] = digest
        self._store.write_json(JOURNAL, self._journal)

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()

    def summary(self) -> str:
        if not self._runs:
            return "W&B: nothing new to mirror"
        if self._online:
            return f"W&B: online, project {self._settings.project}"
        why = f" ({self._why_offline})" if self._why_offline else ""
        return f"W&B: offline{why}; `wandb sync {self._folder}/wandb/offline-run-*` uploads it"

    def _open(
        self, run_id: str, experiment: str, name: str, job_type: str, config: dict[str, Any]
    ) -> "Run":
        if self._online:
            try:
                return self._init("online", run_id, experiment, name, job_type, config)
            except Exception as error:  # no network, a refused key, a server that hangs
                self._online = False
                self._why_offline = " ".join(str(error).split())[:120]
        return self._init("offline", run_id, experiment, name, job_type, config)

    def _init(
        self,
        mode: Any,
        run_id: str,
        experiment: str,
        name: str,
        job_type: str,
        config: dict[str, Any],
    ) -> "Run":
        if mode == "offline":
            # As an argument alone it would still look up the vendor's host.
            os.environ["WANDB_MODE"] = "offline"
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            project=self._settings.project,
            entity=self._settings.entity,
            tags=list(self._settings.tags),
            id=run_id,
            resume="allow" if mode == "online" else None,
            group=experiment,
            name=name,
            job_type=job_type,
            config=config,
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
            ),
        )


def effective_mode(mode: str, environment: Mapping[str, str]) -> str:
    """`online`, `offline` or `disabled`: what the spec says, else $WANDB_MODE, else by the key."""
    if mode == "auto":
        mode = environment.get("WANDB_MODE", "auto")
    if mode in ("disabled", "offline"):
        return mode
    return "online" if _has_key(environment) else "offline"


def _has_key(environment: Mapping[str, str]) -> bool:
    """Look for a key where `wandb login` puts it, and in $WANDB_API_KEY.

    The client itself would ask for one on a terminal, and wait for ever.
    """
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    file = environment.get("NETRC") or str(Path("~/.netrc").expanduser())
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
