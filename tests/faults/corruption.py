"""Damage each kind of file of a store, of prepared data and of W&B's journals, in each way.

    python -m tests.faults.corruption [--each N] [WORD...]

Each case has its own copy of a small finished store, in which a further level is in flight. It is
read by `report`, checked by `store check` and gone on with by `run`: none may hang, end in a
traceback, use what is damaged, or read or write through a link.
"""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from .cases import Case, main
from .inside import command, defects, ended, levels_run_here, without_root_s_right

from archives import write_image_folder  # isort: skip
from soak import levels, result_bytes  # isort: skip

from dsdctl.slurm import jobs
from dsdctl.store.store import Store

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

LEVEL = (
    "identity.json", "result.json", "environment.json", "epochs.jsonl", "weights.safetensors",
    "masks.safetensors", "checksums.json",
)  # fmt: skip
TABLE = ("identity.json", "environment.json", "logits.safetensors", "checksums.json")
PREPARED = (
    "train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy", "manifest.json",
)  # fmt: skip

READ_WHEN_USED = ("weights.safetensors", "masks.safetensors", "logits.safetensors")
"""Of these `report` compares the sizes alone: it reads none of them."""


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


# What can be done to a file


def flip(file: Path, _outside: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)


def truncate(file: Path, _outside: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def empty(file: Path, _outside: Path) -> None:
    file.write_bytes(b"")


def missing(path: Path, _outside: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def folder_there(path: Path, outside: Path) -> None:
    missing(path, outside)
    path.mkdir()
    (path / "inside").write_text("of another program")


def file_there(path: Path, outside: Path) -> None:
    missing(path, outside)
    path.write_text("of another program")


def fifo(path: Path, outside: Path) -> None:
    missing(path, outside)
    os.mkfifo(path)


def link_to_the_same(path: Path, outside: Path) -> None:
    """What is linked to is whole, and yet no part of the store."""
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


def link_to_another(path: Path, outside: Path) -> None:
    missing(path, outside)
    (outside / "secret").write_text("a stranger's secret")
    path.symlink_to(outside / "secret")


def link_to_nothing(path: Path, outside: Path) -> None:
    missing(path, outside)
    path.symlink_to(outside / "nothing")


def mode_000(path: Path, _outside: Path) -> None:
    path.chmod(0)


TO_FILES = (
    flip, truncate, empty, missing, folder_there, fifo, link_to_the_same, link_to_another,
    link_to_nothing, mode_000,
)  # fmt: skip
TO_FOLDERS = (
    missing, file_there, fifo, link_to_the_same, link_to_another, link_to_nothing, mode_000,
)  # fmt: skip

# The cases


@dataclass
class Damage:
    """One kind of damage to one file, and which commands are to say so."""

    kind: str
    damage: Callable[[Path, Path], None]
    path: Callable[[Path], Path]
    said_by: tuple[str, ...] = ("report", "check", "run")
    tracked: bool = False
    checked: Callable[[Path], list[str]] = lambda _folder: []

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.damage.__name__.replace('_', ' ')}"


def damages() -> Iterator[Damage]:
    for name in LEVEL:
        yield from (_of_folder(f"level's {name}", damage, _level, name) for damage in TO_FILES)
    for name in TABLE:
        yield from (_of_folder(f"table's {name}", damage, _table, name) for damage in TO_FILES)
    for damage in TO_FOLDERS:
        said = ("report", "check", "run") if damage is not missing else ()
        yield Damage("level's folder", damage, _level, said)
        yield Damage("table's folder", damage, _table, said)
    yield Damage("two levels' folders", swapped, _level)
    yield Damage("two checkpoints", swapped, _checkpoint, ("check", "run"))
    for damage in TO_FILES:
        none = damage in (missing,)
        yield Damage("checkpoint", damage, _checkpoint, () if none else ("check", "run"))
        yield Damage("marker", damage, lambda f: f / "store/store.json", ("report", "check"))
        cached = () if none else ("check",)
        for name in ("calibration.json", "macs.json", "slurm/jobs.json"):
            yield Damage(name, damage, lambda f, name=name: f / "store" / name, cached)
        for name in ("wandb.json", "wandb-offline.json"):
            yield Damage(
                f"journal {name}",
                damage,
                lambda f, name=name: _journal(f, name),
                cached,
                tracked=True,
            )
        for name in PREPARED:
            yield Damage(
                f"prepared {name}",
                damage,
                lambda f, name=name: _prepared(f) / name,
                (),
                checked=_prepared_is_whole,
            )
        if damage not in (flip, truncate, empty, missing):
            yield Damage("lock", damage, _lock, ("check",) if damage is not mode_000 else ())
        yield Damage("log", damage, lambda f: next(f.glob("store/logs/*.log")), ())
        yield Damage("event log", damage, lambda f: next(f.glob("store/logs/*.jsonl")), ())
    for damage in TO_FOLDERS:
        yield Damage("prepared folder", damage, _prepared, (), checked=_prepared_is_whole)
        yield Damage("prepared lock", damage, _prepared_lock, (), checked=_prepared_is_whole)


def _of_folder(
    kind: str, damage: Callable[[Path, Path], None], place: Callable[[Path], Path], name: str
) -> Damage:
    said: tuple[str, ...] = ("report", "check", "run")
    if damage in (flip, mode_000) and name in READ_WHEN_USED:
        said = ("check", "run")
    return Damage(kind, damage, lambda folder: place(folder) / name, said)


def _level(folder: Path) -> Path:
    """The undistilled student's level 1, which its level 2 starts from."""
    return next(
        level
        for level in levels(folder / "store")
        if (found := json.loads((level / "identity.json").read_bytes()))["level"] == 1
        and found["distillation"] is None
    )


def _other_level(folder: Path) -> Path:
    """Its level 0."""
    return folder / "store/levels" / _parent(folder)[:2] / _parent(folder)


def _parent(folder: Path) -> str:
    return str(json.loads((_level(folder) / "identity.json").read_bytes())["parent"])


def _table(folder: Path) -> Path:
    return next(folder.glob("store/tables/??/[0-9a-f]*"))


def _checkpoint(folder: Path) -> Path:
    return sorted(folder.glob("store/inflight/[0-9a-f]*"))[0]


def _journal(folder: Path, name: str) -> Path:
    """One that says something; there is none of uploads without a server."""
    file = folder / "store/tracking" / name
    if not file.exists():
        shutil.copy(folder / "store/tracking/wandb-offline.json", file)
    return file


def _prepared(folder: Path) -> Path:
    return next(
        path for path in (folder / "pictures/dsdctl-prepared").iterdir() if path.name[0] != "."
    )


def _prepared_lock(folder: Path) -> Path:
    """The lock is needed where something is to be made."""
    (_prepared(folder) / "test_labels.npy").unlink()
    lock = _prepared(folder).with_name(f".{_prepared(folder).name}.lock")
    lock.touch()
    return lock


def _lock(folder: Path) -> Path:
    """The lock of a level that is to be run."""
    return folder / "store/locks" / _checkpoint(folder).name


def swapped(path: Path, _outside: Path) -> None:
    folder = path.parents[3] if path.parent.name != "inflight" else path.parents[2]
    other = (
        _other_level(folder)
        if path.parent.name != "inflight"
        else sorted(path.parent.glob("[0-9a-f]*"))[1]
    )
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def _prepared_is_whole(folder: Path) -> list[str]:
    from dsdctl.data.prepared import is_whole

    place = folder / "pictures/dsdctl-prepared"
    left = sorted(path.name for path in place.iterdir())
    wrong = [] if len(left) == 1 else [f"left beside the prepared data: {', '.join(left)}"]
    found = [path for path in place.iterdir() if path.name[0] != "."]
    if not found or not is_whole(found[0], thorough=True):
        wrong.append("the prepared data is not whole afterwards")
    return wrong


# Trying


def attempt(case: Damage, made: Made, place: Path) -> tuple[str, list[str]]:
    """Try a case on a copy in `place`; return the exit codes, and what was wrong."""
    folder, outside = place / "work", place / "outside"
    shutil.copytree(made.folder, folder, symlinks=True)
    outside.mkdir()
    path = case.path(folder)
    case.damage(path, outside)
    before, strangers = _files(folder / "store"), _files(outside)
    wrong: list[str] = []

    def do(*line: object) -> subprocess.CompletedProcess[str]:
        right = without_root_s_right() if case.damage is mode_000 else nullcontext()
        with right, levels_run_here():
            done = command(folder, *line)
        wrong.extend(defects(done))
        return done

    report, check = do("report", "short.yaml"), do("store", "check")
    if _files(folder / "store") != before:
        wrong.append("reading changed the store")
    if report.stdout != made.report and case.damage is not missing and not report.stderr.strip():
        wrong.append("`report` says something else, and not why")
    run = do("run", "longer.yaml")
    if case.tracked:
        do("report", "tracked.yaml", "--wandb")
    said = {"report": report.stderr, "check": check.stdout + check.stderr, "run": run.stderr}
    name = _named(case, path, folder)
    wrong += [f"`{who}` does not name it" for who in case.said_by if name not in said[who]]
    if "check" in case.said_by and check.returncode == 0:
        wrong.append("`store check` is content")
    if _files(outside) != strangers:
        wrong.append("something outside was changed")
    if "a stranger's secret" in report.stdout + report.stderr + check.stdout + run.stdout:
        wrong.append("what lies outside is shown")
    if run.returncode == 0:
        wrong += _ended_as_it_must(folder, made)
        wrong += case.checked(folder) if case.damage is not mode_000 else []
    elif case.damage is not mode_000 and case.kind not in ("marker", "lock", "prepared lock"):
        wrong.append(f"`run` does not mend it ({_last(run.stderr)})")
    elif name not in run.stderr:
        wrong.append(f"`run` fails without naming it ({_last(run.stderr)})")
    _make_readable(path)
    return f"{report.returncode} {check.returncode} {run.returncode}", wrong


def _ended_as_it_must(folder: Path, made: Made) -> list[str]:
    found = result_bytes(folder / "store")
    names = made.reference.keys() | found.keys()
    other = [name for name in names if found.get(name) != made.reference.get(name)]
    return [f"`run` ends in other results ({sorted(other)[0]})"] if other else []


def _named(case: Damage, path: Path, folder: Path) -> str:
    """What a message must hold to name it: of checksums, that may belong to any file, the folder;
    of two that were swapped, either."""
    if case.kind == "marker":
        return path.name
    if case.damage is swapped and "level" in case.kind:
        return "does not belong to this key"
    return str((path.parent if path.name == "checksums.json" else path).relative_to(folder))


def _last(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it says nothing"


def _make_readable(path: Path) -> None:
    if path.exists() and not path.is_symlink():
        path.chmod(0o755 if path.is_dir() else 0o644)


def _files(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder, but for times, locks and what `report` may not read."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.fsencode(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
        else:
            found[name] = b""
    return found


# Forgeries, whose checksums fit


def result_of(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], Path]:
    """Change the result of a level, and its checksum."""

    def forge(folder: Path) -> Path:
        result = json.loads((_level(folder) / "result.json").read_bytes())
        change(result)
        return _put(_level(folder), "result.json", json.dumps(result).encode())

    return forge


def content_of(
    place: Callable[[Path], Path], name: str, change: Callable[[bytes], bytes]
) -> Callable[[Path], Path]:
    """Change a file of a level or a table, and its checksum."""
    return lambda folder: _put(place(folder), name, change((place(folder) / name).read_bytes()))


def tensors_of(
    place: Callable[[Path], Path], name: str, change: Callable[[dict[str, Tensor]], object]
) -> Callable[[Path], Path]:
    def changed(content: bytes) -> bytes:
        tensors = load(content)
        change(tensors)
        return save(tensors)

    return content_of(place, name, changed)


def checkpoint_of(change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """Change a checkpoint, and its digest."""

    def forge(folder: Path) -> Path:
        file = _checkpoint(folder)
        content = change(file.read_bytes()[:-32])
        file.write_bytes(content + hashlib.sha256(content + file.name.encode()).digest())
        return file

    return forge


def _put(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    sums = json.loads((folder / "checksums.json").read_bytes())
    sums[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "checksums.json").write_text(json.dumps(sums))
    return folder / name


def _as_identity(key: str, value: object) -> Callable[[bytes], bytes]:
    return lambda content: json.dumps({**json.loads(content), key: value}).encode()


WEIGHTS, MASKS, TABLE_FILE = "weights.safetensors", "masks.safetensors", "logits.safetensors"
FIRST = "features.0.weight"

FORGED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "an accuracy": (result_of(lambda r: r.update(test_accuracy=0.999)), "believed"),
    "an accuracy of 730 %": (result_of(lambda r: r.update(test_accuracy=7.3)), "refused"),
    "no number": (result_of(lambda r: r.update(test_accuracy=math.nan)), "refused"),
    "infinite bits": (result_of(lambda r: r.update(entropy_bits=math.inf)), "refused"),
    "a sparsity below 0": (result_of(lambda r: r.update(sparsity=-0.5)), "refused"),
    "another level's number": (result_of(lambda r: r.update(level=7)), "refused"),
    "a word for a number": (result_of(lambda r: r.update(test_accuracy="1")), "refused"),
    "a field too many": (result_of(lambda r: r.update(more=1)), "refused"),
    "no JSON": (content_of(_level, "result.json", lambda _: b"nonsense"), "refused"),
    "deep JSON": (content_of(_level, "result.json", lambda _: b"[" * 100_000), "refused"),
    "identity": (content_of(_level, "identity.json", _as_identity("seed", 9)), "refused"),
    "a table's identity": (
        content_of(_table, "identity.json", _as_identity("precision", "bf16")),
        "refused",
    ),
    "an escape in the environment": (
        content_of(_level, "environment.json", _as_identity("device", "cpu \x1b[2J<b>[red]")),
        "refused",
    ),
    "weights": (tensors_of(_level, WEIGHTS, lambda w: w[FIRST].add_(1)), "believed"),
    "weights that are no numbers": (
        tensors_of(_level, WEIGHTS, lambda w: w[FIRST].fill_(math.nan)),
        "stops",
    ),
    "weights of another shape": (
        tensors_of(_level, WEIGHTS, lambda w: w.update({FIRST: torch.ones(2)})),
        "stops",
    ),
    "weights that are no tensors": (content_of(_level, WEIGHTS, lambda _: b"none"), "quarantined"),
    "a giant header": (
        content_of(_level, WEIGHTS, lambda c: (2**40).to_bytes(8, "little") + c[8:]),
        "quarantined",
    ),
    "masks": (tensors_of(_level, MASKS, lambda m: m[FIRST].fill_(True)), "believed"),
    "no masks": (tensors_of(_level, MASKS, lambda m: m.clear()), "stops"),
    "a table": (tensors_of(_table, TABLE_FILE, lambda t: t["logits"].add_(1)), "believed"),
    "a table of another shape": (
        tensors_of(_table, TABLE_FILE, lambda t: t.update(logits=torch.ones(2, 2, 2))),
        "stops",
    ),
    "a checkpoint of nothing": (checkpoint_of(lambda _: b""), "quarantined"),
    "a checkpoint without a header": (checkpoint_of(lambda _: bytes(100)), "quarantined"),
    "a checkpoint of other tensors": (
        checkpoint_of(lambda c: save({"x": torch.ones(2)}, _metadata(c))),
        "stops",
    ),
    "a calibration": (
        lambda folder: _write(folder / "store/calibration.json", {"cpu": {"x": "fast"}}),
        "ignored",
    ),
    "a calibration of lists": (
        lambda folder: _write(folder / "store/calibration.json", {"start_seconds": [1]}),
        "ignored",
    ),
    "a calibration of nothing a second": (
        lambda folder: _write(folder / "store/calibration.json", {"cpu": {"x": 0.0}}),
        "ignored",
    ),
    "a journal of lists": (
        lambda folder: _write(folder / "store/tracking/wandb-offline.json", {"x": [[1]]}),
        "ignored",
    ),
    "jobs that are no names": (
        lambda folder: _write(folder / "store/slurm/jobs.json", {"0" * 64: [1]}),
        "ignored",
    ),
}
"""What is forged with a checksum that fits, and what comes of it: `believed`; `refused` at once by
all commands; `quarantined` or one error, `stops`, by the run that reads it; `ignored`."""


def _metadata(checkpoint: bytes) -> dict[str, str]:
    length = int.from_bytes(checkpoint[:8], "little")
    found: dict[str, str] = json.loads(checkpoint[8 : 8 + length])["__metadata__"]
    return found


def _write(file: Path, value: object) -> Path:
    file.write_text(json.dumps(value))
    return file


def try_forgery(name: str, made: Made, place: Path) -> tuple[str, list[str]]:
    """Try a forgery on a copy in `place`; return the exit codes, and what was wrong."""
    forge, expected = FORGED[name]
    folder = place / "work"
    shutil.copytree(made.folder, folder, symlinks=True)
    path = forge(folder)
    with levels_run_here():
        done = [
            command(folder, *line.split())
            for line in (
                "report short.yaml", "report short.yaml --format json", "store check",
                "store list", "plan short.yaml", "status short.yaml", "run longer.yaml",
            )
        ]  # fmt: skip
        if "journal" in name:
            done.append(command(folder, "report", "tracked.yaml", "--wandb"))
    report, run = done[0], done[6]
    wrong = [defect for one in done for defect in defects(one)]
    shown = str(path.relative_to(folder))
    if "\x1b" in "".join(one.stdout + one.stderr for one in done):
        wrong.append("an escape reaches the terminal")
    said = {
        "refused": (str(path.parent.relative_to(folder)) in report.stderr, run.returncode == 0),
        "quarantined": (shown in run.stderr and "quarantined" in run.stderr, run.returncode == 0),
        "stops": (run.returncode == 3, "error: " in run.stderr),
    }.get(expected, (run.returncode == 0, not report.stderr))
    if not all(said):
        wrong.append(f"is not {expected}: {_last(report.stderr)}; {_last(run.stderr)}")
    if expected in ("refused", "quarantined", "ignored"):
        wrong += _ended_as_it_must(folder, made)
    return " ".join(str(one.returncode) for one in done), wrong


def cases(root: Path) -> Iterator[Case]:
    """All damages, and all forgeries."""
    made = make(root / "made")
    for damage in damages():
        yield damage.name, lambda place, damage=damage: ended(*attempt(damage, made, place))
    for name, (_, outcome) in FORGED.items():
        yield (
            f"forged {name}",
            lambda place, n=name, o=outcome: ended(*try_forgery(n, made, place), o),
        )


if __name__ == "__main__":
    sys.exit(main("corruption", cases) != 0)
