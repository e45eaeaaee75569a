"""The same bytes: recorded or not, run again, interrupted; and training that diverges."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import torch

from dsdctl.bench.gpu import CountedCapture
from dsdctl.errors import StoppedError
from dsdctl.keys import key_of
from dsdctl.ml.device import configure
from dsdctl.plan.plan import make_plan
from dsdctl.plan.resolve import resolve_all
from dsdctl.store.store import Store
from dsdctl.worker.level import run_task
from dsdctl.worker.tasks import LevelTask, WorkerConfig

from .small import random_archive, result_bytes, write_spec
from .training import PRECISIONS, Kind, counted, differing, ten_steps


def recorded_steps_are_the_steps(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """Ten steps with two ragged batches, replayed and as they are, bit for bit."""
    configure(torch.device(device), 1)
    found: dict[str, Any] = {}
    for kind in get_args(Kind):
        for precision in PRECISIONS if not tiny else PRECISIONS[::2]:
            capture = counted(device)
            recorded = ten_steps(kind, precision, device, tiny, capture)
            plain = ten_steps(kind, precision, device, tiny, None)
            found[f"{kind} {precision}"] = {
                # The first full batch is never recorded, and the trial replay counts.
                "replays": f"{capture.replays} of 7",
                "differing": differing(recorded, plain)[:5],
                "of": len(plain),
                "finite": all(bool(tensor.isfinite().all()) for tensor in plain.values()),
            }
    wanted = {"replays": "7 of 7", "differing": [], "finite": True}
    return {"holds": all({**one, **wanted} == one for one in found.values()), **found}


def two_runs_give_the_same_bytes(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """Student and teacher twice in this process, their steps recorded."""
    configure(torch.device(device), 1)
    found: dict[str, Any] = {}
    kinds: tuple[Kind, ...] = ("student", "teacher")
    for kind in kinds:
        one, other = (ten_steps(kind, "bf16", device, tiny, counted(device)) for _ in range(2))
        found[kind] = differing(one, other)[:5]
    return {"holds": not any(found.values()), "differing": found}


def streams_at_once_give_the_same_bytes(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """The student, the teacher and a distilled student, recorded side by side in threads of this
    process with a stream each, and each alone."""
    configure(torch.device(device), 1)
    kinds: tuple[Kind, ...] = ("student", "teacher", "distilled-table")
    captures = [counted(device) for _ in kinds]

    def beside(kind: Kind, capture: CountedCapture) -> dict[str, torch.Tensor]:
        if device == "cuda":
            torch.cuda.set_stream(torch.cuda.Stream())
        configure(torch.device(device), 1)
        return ten_steps(kind, "bf16", device, tiny, capture)

    with ThreadPoolExecutor(len(kinds)) as pool:
        together = list(pool.map(beside, kinds, captures))
    alone = [ten_steps(kind, "bf16", device, tiny, counted(device)) for kind in kinds]
    different = {
        kind: differing(one, other)[:5]
        for kind, one, other in zip(kinds, together, alone, strict=True)
    }
    replays = [capture.replays for capture in captures]
    holds = not any(different.values()) and replays == [7] * len(kinds)
    return {"holds": holds, "differing": different, "replays": replays}


def interrupted_and_resumed_gives_the_same_bytes(
    device: str, tiny: bool, folder: Path
) -> dict[str, Any]:
    """Level 0 of the student, stopped after two of four epochs by a wish and gone on with."""
    task = _level(folder, tiny, epochs=4)
    config = _config(folder / "whole", device)
    run_task(task, config)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    stopped, config = False, _config(folder / "resumed", device)
    try:
        run_task(task, config, stop)
    except StoppedError:
        stopped = True
    run_task(task, config)
    whole, resumed = (result_bytes(folder / name) for name in ("whole", "resumed"))
    same = whole == resumed
    return {"holds": stopped and same, "stopped": stopped, "same": same, "files": sorted(whole)}


def a_level_that_diverges(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """Decay that multiplies weights by -999 a step: the level is recorded as diverged."""
    task = _level(folder, tiny, epochs=8, optimizer={"lr": 1000, "weight_decay": 1})
    done = run_task(task, _config(folder / "store", device))
    kind = done.level.result.kind if done.level else None
    stored = Store(folder / "store").levels.get(key_of(task.identity)) is not None
    return {"holds": kind == "diverged" and stored, "result": kind, "stored": stored}


def _level(folder: Path, tiny: bool, **training: Any) -> LevelTask:
    """Level 0 of a student on random images, with a ragged last batch."""
    images = random_archive(folder / "images.npz", *((70, 20, 8) if tiny else (1000, 200)))
    student = {"arch": "vgg-like", "depth": 2, "width": 8} if tiny else None
    training = {"batch_size": 32 if tiny else 128, "precision": "bf16", **training}
    options = {"student": student} if student else {"student": _STUDENT}
    spec = write_spec(folder / "level.yaml", images, training=training, **options)
    (trajectory,) = make_plan(resolve_all([spec])).trajectories.values()
    return LevelTask(identity=trajectory.level_identity(0, None, None), dataset_path=str(images))


_STUDENT = {"arch": "vgg-like", "depth": 5, "width": 32}


def _config(store: Path, device: str) -> WorkerConfig:
    Store(store).open_for_writing()
    return WorkerConfig(store=str(store), device=device, checkpoint_every=1000)
