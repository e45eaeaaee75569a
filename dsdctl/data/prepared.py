"""Prepared images: decoded and cut to size once, then kept as plain arrays for all runs.

    <folder>/train_images.npy    uint8 (N, H, W, C)
    <folder>/train_labels.npy    int64 (N,)
    <folder>/test_images.npy, test_labels.npy    if there is a test split
    <folder>/manifest.json       see Manifest

A folder is written under a temporary name beside its final one, flushed to disk, and then renamed.
One that is not whole is made again. Nothing here imports torch.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsdctl.errors import WorkError
from dsdctl.system.atomic import beside, flush, flush_folder
from dsdctl.system.files import is_there, open_lock, read_file, size_of, without_following

if TYPE_CHECKING:
    import numpy as np

CHUNK = 512
"""How many images are decoded before they are written."""

FOLDER = "dsdctl-prepared"
"""The name of the folder beside the data for prepared images."""

MANIFEST = "manifest.json"

Progress = Callable[[int, int], None]
"""Called with the number of images done, and of all."""


@dataclass(frozen=True)
class RawSplit:
    """One part of a data set in its own files.

    `labels` has N class numbers; `shape` of an image is (H, W, C); `read(start, stop)` returns
    images start..stop-1 as uint8 (n, H, W, C).
    """

    labels: Sequence[int]
    shape: tuple[int, int, int]
    read: "Callable[[int, int], np.ndarray]"


@dataclass(frozen=True)
class RawDataset:
    """A data set in its own files. `finish` is called after all images have been read, to check
    them; it returns further fields of the manifest."""

    classes: int
    parts: Mapping[str, RawSplit]
    finish: Callable[[], Mapping[str, str]] = dict


@dataclass(frozen=True)
class Manifest:
    """The content of a prepared folder: the size in bytes and sha256 of each file.

    `content` and `fingerprint` are those of an image folder's files; `content` alone that of a
    user's own arrays.
    """

    classes: int
    files: Mapping[str, tuple[int, str]]
    content: str | None = None
    fingerprint: str | None = None

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.files.values())


def prepare(
    folder: Path, original: Callable[[], RawDataset], progress: Progress, *, thorough: bool
) -> None:
    """Make `folder` from `original()`, unless it is there and whole. Of several processes one makes
    it, and the others wait.

    With `thorough` every byte is checked, else names and sizes. Raises WorkError if it cannot be
    written, and whatever `original` raises.
    """
    if is_whole(folder, thorough=thorough):
        return
    try:
        with _lock(folder):
            if not is_whole(folder, thorough=thorough):
                _make(folder, original(), progress)
    except OSError as error:
        where = error.filename or folder
        raise WorkError(f"{where}: {error.strerror or error}") from error


def is_whole(folder: Path, *, thorough: bool) -> bool:
    """Whether all files are there with the right sizes and, if `thorough`, checksums."""
    manifest = read_manifest(folder)
    return manifest is not None and all(
        _fits(folder / name, size, digest if thorough else None)
        for name, (size, digest) in manifest.files.items()
    )


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a prepared folder, or None if there is no valid one."""
    try:
        manifest = Manifest(**json.loads(read_file(folder / MANIFEST)))
        sound = {"train_images.npy", "train_labels.npy"} <= manifest.files.keys() and all(
            isinstance(size, int) and isinstance(digest, str)
            for size, digest in manifest.files.values()
        )
        return manifest if sound and isinstance(manifest.classes, int) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def open_part(folder: Path, part: str, *, mapped: bool) -> "tuple[np.ndarray, np.ndarray]":
    """The images, uint8 (N, H, W, C), and labels, int64 (N,), of a prepared part.

    The images are in memory, or memory-mapped if `mapped`.
    """
    import numpy as np

    images = np.load(folder / f"{part}_images.npy", mmap_mode="r" if mapped else None)
    return images, np.load(folder / f"{part}_labels.npy")


# Making


def _make(folder: Path, original: RawDataset, progress: Progress) -> None:
    with beside(folder, Path.mkdir) as temporary, beside(folder, Path.mkdir) as damaged:
        _check_room(folder, original)
        files = _write_parts(temporary, original, progress)
        manifest = Manifest(original.classes, files, **original.finish())
        with (temporary / MANIFEST).open("w") as stream:
            json.dump(asdict(manifest), stream, indent=1, sort_keys=True)
            flush(stream)
        flush_folder(temporary)
        if is_there(folder):  # but not whole, or it would not be made again
            folder.rename(damaged / folder.name)
        temporary.rename(folder)
        flush_folder(folder.parent)


def _write_parts(
    folder: Path, original: RawDataset, progress: Progress
) -> dict[str, tuple[int, str]]:
    import numpy as np

    files = {}
    total, done = sum(len(part.labels) for part in original.parts.values()), 0
    for name, part in original.parts.items():
        count = len(part.labels)
        with _Digested(folder / f"{name}_images.npy") as images:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, *part.shape)}
            np.lib.format.write_array_header_1_0(images, header)
            for start in range(0, count, CHUNK):
                stop = min(start + CHUNK, count)
                images.write(np.ascontiguousarray(part.read(start, stop)).data)
                done += stop - start
                progress(done, total)
        with _Digested(folder / f"{name}_labels.npy") as labels:
            np.save(labels, np.asarray(part.labels, dtype="<i8"))
        files[f"{name}_images.npy"] = images.entry
        files[f"{name}_labels.npy"] = labels.entry
    return files


class _Digested:
    """A new file that counts and hashes what is written, and is flushed to disk when closed."""

    def __init__(self, file: Path):
        self._stream = file.open("xb")
        self._digest = hashlib.sha256()
        self._bytes = 0

    def __enter__(self) -> "_Digested":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._stream:
            if kind is None:
                flush(self._stream)

    def write(self, content: bytes | memoryview) -> int:
        self._digest.update(content)
        self._bytes += memoryview(content).nbytes
        return self._stream.write(content)

    @property
    def entry(self) -> tuple[int, str]:
        return self._bytes, self._digest.hexdigest()


def _check_room(folder: Path, original: RawDataset) -> None:
    """Raises WorkError if the disk has no room for the prepared images."""
    needed = sum(
        len(part.labels) * part.shape[0] * part.shape[1] * part.shape[2]
        for part in original.parts.values()
    )
    free = shutil.disk_usage(folder.parent).free
    if needed > free:
        raise WorkError(
            f"{folder}: the prepared images take {needed / 2**30:.1f} GiB, "
            f"but only {free / 2**30:.1f} are free"
        )


def _fits(file: Path, size: int, digest: str | None) -> bool:
    try:
        if size_of(file) != size:
            return False
        if digest is None:
            return True
        with open(file, "rb", opener=without_following) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == digest
    except OSError:
        return False


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Wait for the lock of `folder`, which the system releases when its owner ends.

    The owner deletes the lock file and, after a failure, empty folders that were created for it, so
    that a failed attempt leaves nothing behind.
    """
    path = folder.with_name(f".{folder.name}.lock")
    with ExitStack() as stack:
        while True:
            made = [parent for parent in path.parents if not parent.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # the previous owner has just deleted it
                file = stack.enter_context(open_lock(path))
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    break
        try:
            yield
        except BaseException:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty, so in use by others
                for parent in made:
                    parent.rmdir()
            raise
        path.unlink(missing_ok=True)
