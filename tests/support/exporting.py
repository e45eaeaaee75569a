"""A spec of two variants, run and exported in this process."""

from pathlib import Path

from tiny import TINY
from typer.testing import CliRunner, Result

from dsdctl.cli.app import app
from dsdctl.keys import LevelIdentity
from dsdctl.plan.next_work import next_piece
from dsdctl.plan.plan import make_plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.resolve import resolve
from dsdctl.spec.yaml import parse_document
from dsdctl.store.store import Store
from dsdctl.worker.level import LevelTask, WorkerConfig, run_task

SPEC = parse_document(TINY, Path("tiny.yaml")).data | {
    "title": "a | title <b>",
    "recipes": ["vanilla"],
    "seeds": [0],
    "matrix": {"student.width": [4, 6]},
}


def run_all(spec: Path) -> None:
    """All levels of a spec without a teacher, in this process."""
    store = Store(store_of(spec))
    store.open_for_writing()
    progress = Progress(make_plan([resolve(spec)]), store)
    place = WorkerConfig(store=str(store.root), device="cpu", threads=1)
    for trajectory in progress.plan.trajectories.values():
        while (identity := next_piece(progress, trajectory)) is not None:
            assert isinstance(identity, LevelIdentity)
            level = run_task(LevelTask(identity=identity, dataset_path="."), place).level
            assert level is not None
            progress.add(trajectory, level)


def store_of(spec: Path) -> Path:
    return spec.parent / "store"


def export(spec: Path, *options: object) -> Result:
    """Call `dsdctl export` for the vanilla recipe, in this process."""
    line = ["export", spec, "--recipe", "vanilla", "--store", store_of(spec), *options]
    return CliRunner().invoke(app, [str(part) for part in line])
