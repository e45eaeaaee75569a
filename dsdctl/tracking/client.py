"""W&B's client, inside its process."""

import os
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dsdctl.spec.experiment import Wandb
from dsdctl.store.store import Store
from dsdctl.tracking.journal import JOURNAL, OFFLINE_JOURNAL, _merge, add_to_journal, read_journal
from dsdctl.tracking.messages import ATTACHED, FINISH_SECONDS, ReportArtifacts, RunInfo, _one_line
from dsdctl.tracking.mode import effective_mode, wished_mode

if TYPE_CHECKING:
    from wandb import Run


INIT_SECONDS = 20.0
"""How long to wait for the server before going on offline."""


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

    def attach(self, attached: ReportArtifacts) -> None:
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


def _log_attached(run: "Run", attached: ReportArtifacts, folder: Path, step: int) -> None:
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
