"""A small finished store, in which a further level is in flight, and the places in it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from archives import write_image_folder
from soak import levels, result_bytes

from dsdctl.slurm import jobs
from dsdctl.store.store import Store

from .inside import command, levels_run_here

SPEC = """\
experiment: NAME
dataset: {name: image-folder, root: pictures, size: {resize: 8, crop: 8}, augment: {flip: true}}
label_noise: {rate: 0.3}
student: {arch: vgg-like, depth: 1, width: 4, pool: 2}
teacher: {arch: vgg-like, depth: 1, width: 6, pool: 2, table: always}
training: {epochs: 2, batch_size: 8, optimizer: {lr: 0.05}}
pruning: {levels: LEVELS, fraction: 0.3}
recipes: [vanilla, kd-dense-teacher]
seeds: [0]
tracking: {wandb: {project: faults, mode: MODE}}
"""


@dataclass
class Made:
    """A finished store and what it may be gone on with; `reference` is how that ends."""

    folder: Path
    reference: dict[str, bytes]
    report: str

    @property
    def store(self) -> Path:
        return self.folder / "store"


def make(folder: Path) -> Made:
    """Run two levels of a student, with its teacher and the table, and a third to a checkpoint."""
    folder.mkdir(parents=True)
    write_image_folder(folder / "pictures", each=8)
    for name, count, mode in (
        ("short", 1, "disabled"),
        ("longer", 2, "disabled"),
        ("tracked", 1, "offline"),
    ):
        text = SPEC.replace("NAME", name).replace("LEVELS", str(count)).replace("MODE", mode)
        (folder / f"{name}.yaml").write_text(text)
    with levels_run_here():
        _done(command(folder, "run", "short.yaml"))
        _done(command(folder, "report", "tracked.yaml", "--wandb"))
        jobs.record(Store(folder / "store"), {"0" * 64: "1"})
    report = command(folder, "report", "short.yaml", "--store", "store")
    with levels_run_here(stop=_from_the_second_time_on()):
        command(folder, "run", "longer.yaml")
    whole = folder.with_name("whole")
    shutil.copytree(folder, whole, symlinks=True)
    with levels_run_here():
        _done(command(whole, "run", "longer.yaml"))
    return Made(folder, result_bytes(whole / "store"), report.stdout)


def _from_the_second_time_on() -> Callable[[], bool]:
    """Each level is asked before each epoch, and stops after its first."""
    asked = iter(range(100))
    return lambda: next(asked) % 2 == 1


def _done(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr


def level_1(folder: Path) -> Path:
    """The undistilled student's level 1, which its level 2 starts from."""
    return next(
        level
        for level in levels(folder / "store")
        if (found := json.loads((level / "identity.json").read_bytes()))["level"] == 1
        and found["distillation"] is None
    )


def level_0(folder: Path) -> Path:
    """Its level 0."""
    return folder / "store/levels" / _parent(folder)[:2] / _parent(folder)


def _parent(folder: Path) -> str:
    return str(json.loads((level_1(folder) / "identity.json").read_bytes())["parent"])


def table(folder: Path) -> Path:
    return next(folder.glob("store/tables/??/[0-9a-f]*"))


def checkpoint(folder: Path) -> Path:
    return sorted(folder.glob("store/inflight/[0-9a-f]*"))[0]


def journal(folder: Path, name: str) -> Path:
    """One that says something; there is none of uploads without a server."""
    file = folder / "store/tracking" / name
    if not file.exists():
        shutil.copy(folder / "store/tracking/wandb-offline.json", file)
    return file


def prepared(folder: Path) -> Path:
    return next(
        path for path in (folder / "pictures/dsdctl-prepared").iterdir() if path.name[0] != "."
    )


def prepared_lock(folder: Path) -> Path:
    """The lock is needed where something is to be made."""
    (prepared(folder) / "test_labels.npy").unlink()
    lock = prepared(folder).with_name(f".{prepared(folder).name}.lock")
    lock.touch()
    return lock


def lock(folder: Path) -> Path:
    """The lock of a level that is to be run."""
    return folder / "store/locks" / checkpoint(folder).name
