"""Archives, images and weights that claim, hide or are what they should not, tried as data.

    python -m tests.faults.archives [--each N] [WORD...]

Each case is an archive, an image among others, an image folder, or a teacher's weights, validated
and run: what can be used is used, what cannot is refused in a message that names it, without a
hang, a traceback, or memory far beyond what the file is worth.
"""

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archives import write_image_folder

from .cases import Case, main
from .inside import command, defects, ended, levels_run_here
from .odd_archives import ARCHIVES, archive
from .odd_images import FOLDERS, IMAGE_FILES
from .odd_weights import WEIGHTS

SPEC = """\
experiment: small
dataset: DATASET
student: {arch: vgg-like, depth: 1, width: 4, pool: 2}
training: {epochs: 1, batch_size: 7, optimizer: {lr: 0.05}}
pruning: {levels: 0}
recipes: [RECIPE]
seeds: [0]
"""
TEACHER = "teacher: {arch: vgg-like, depth: 1, width: 4, pool: 2}\n"
NPZ = "{name: npz, file: data.npz, validation: test}"
FOLDER = "{name: image-folder, root: pictures, size: {resize: 16, crop: 8}, validation: test}"

MEMORY = 3 * 2**30
"""Bytes of address space that a case may take beyond what this process has."""


@contextmanager
def little_memory() -> Any:
    """Limits this process's address space to what it has and a little more."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(
    folder: Path, dataset: str, named: str, expected: str, teacher: bool = False
) -> tuple[str, list[str]]:
    """Validate, plan and run; return the exit codes, and what was wrong."""
    spec = SPEC.replace("DATASET", dataset).replace("RECIPE", "mine" if teacher else "vanilla")
    (folder / "spec.yaml").write_text(spec + TEACHER * teacher)
    with levels_run_here(), little_memory():
        done = [command(folder, line, "spec.yaml") for line in ("validate", "plan", "run")]
    wrong = [defect for one in done for defect in defects(one)]
    run = done[-1]
    if expected == "used" and run.returncode != 0:
        wrong.append(f"is not used: {run.stderr.strip()[-200:]}")
    if expected == "refused":
        wrong += [] if run.returncode in (2, 3) else [f"`run` ends with {run.returncode}"]
        wrong += [] if named in run.stderr else [f"{named} is not named: {run.stderr[-200:]}"]
        if list(folder.glob("store/levels/*/*")):
            wrong.append("a level was run")
    if "memory is full" in run.stderr:
        wrong.append("it takes all memory")
    if "Warning" in "".join(one.stderr for one in done):
        wrong.append(f"Python's own warning is shown ({run.stderr[-150:]})")
    if (folder / "unpickled").exists():
        wrong.append("it was unpickled")
    if "\x1b" in "".join(one.stdout + one.stderr for one in done):
        wrong.append("an escape reaches the terminal")
    return " ".join(str(one.returncode) for one in done), wrong


def try_archive(folder: Path, name: str) -> tuple[str, list[str]]:
    folder.mkdir()
    make, expected = ARCHIVES[name]
    (folder / "data.npz").write_bytes(make())
    return attempt(folder, NPZ, "data.npz", expected)


def try_image(folder: Path, name: str) -> tuple[str, list[str]]:
    root = write_image_folder(folder / "pictures")
    ending, make, expected = IMAGE_FILES[name]
    (root / f"train/ant/case.{ending}").write_bytes(make())
    return attempt(folder, FOLDER, f"case.{ending}", expected)


def try_folder(folder: Path, change: Callable[[Path], None]) -> tuple[str, list[str]]:
    change(write_image_folder(folder / "pictures"))
    return attempt(folder, FOLDER, "pictures/", FOLDERS[change])


def try_weights(folder: Path, name: str) -> tuple[str, list[str]]:
    folder.mkdir()
    (folder / "data.npz").write_bytes(archive())
    (folder / "w.safetensors").write_bytes(WEIGHTS[name]())
    recipe = "recipe: mine\ntitle: x\ndistill: {teacher: {weights: w.safetensors}}\n"
    (folder / "mine.yaml").write_text(recipe)
    return attempt(folder, NPZ, "w.safetensors", "refused", teacher=True)


def cases(_root: Path) -> Iterator[Case]:
    """All of them."""
    for name in ARCHIVES:
        yield f"archive, {name}", lambda folder, n=name: ended(*try_archive(folder, n))
    for name in IMAGE_FILES:
        yield f"image, {name}", lambda folder, n=name: ended(*try_image(folder, n))
    for change in FOLDERS:
        what = change.__name__.replace("_", " ")
        yield f"image folder, {what}", lambda folder, c=change: ended(*try_folder(folder, c))
    for name in WEIGHTS:
        yield f"weights, {name}", lambda folder, n=name: ended(*try_weights(folder, n))


if __name__ == "__main__":
    sys.exit(main("archives", cases) != 0)
