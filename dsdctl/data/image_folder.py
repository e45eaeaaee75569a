"""Listing a folder of images as torchvision's ImageFolder does: one folder per class.

    root/train/<class>/.../image.jpg    root/val/ or root/test/ likewise

Nothing here decodes an image or imports torch.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from dsdctl.errors import InputError

EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Extensions of images, as torchvision's; case does not matter."""


@dataclass(frozen=True)
class ImageFile:
    """An image's path, relative to the root, and its class number."""

    path: str
    label: int


@dataclass(frozen=True)
class Listing:
    """The images of an image folder; `test` is empty if there is no `test_folder`."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[ImageFile, ...]
    test_folder: str | None
    test: tuple[ImageFile, ...]

    @property
    def files(self) -> tuple[ImageFile, ...]:
        return self.train + self.test

    def fingerprint(self) -> str:
        """sha256 of the files' names, sizes and modification times, which is quick to compute; if
        it is the same, the content is taken to be the same.

        Raises InputError if a file is missing or not a regular file.
        """
        digest = hashlib.sha256()
        for file in self.files:
            try:
                status = (self.root / file.path).stat()
            except OSError as error:
                raise InputError(f"{error.filename}: {error.strerror or error}") from error
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{self.root / file.path}: not a regular file")
            digest.update(os.fsencode(f"{file.path}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        return digest.hexdigest()


def list_images(root: Path, test_folder: str | None) -> Listing:
    """List `root`; `test_folder` is by default val/ or test/, whichever exists.

    Raises InputError if the folder is not as described above, or cannot be read.
    """
    try:
        classes = _classes(root / "train")
        train = _images(root, "train", classes)
        test_folder = _test_folder(root, test_folder)
        test = () if test_folder is None else _images(root, test_folder, classes)
    except OSError as error:
        raise InputError(f"{error.filename or root}: {error.strerror or error}") from error
    used = {file.label for file in train}
    empty = [name for label, name in enumerate(classes) if label not in used]
    if empty:
        raise InputError(f"{root}/train/{empty[0]}: holds no image ({', '.join(EXTENSIONS)})")
    return Listing(root, classes, train, test_folder, test)


def content_digest(pairs: "list[tuple[str, bytes]]") -> str:
    """sha256 over pairs of a path, relative to the root, and the sha256 of the file's bytes."""
    digest = hashlib.sha256()
    for path, file_digest in pairs:
        digest.update(os.fsencode(path) + b"\0" + file_digest)
    return digest.hexdigest()


def read_content(listing: Listing) -> str:
    """The content digest of an image folder; reads every file. Raises InputError."""
    pairs = []
    for file in listing.files:
        try:
            with (listing.root / file.path).open("rb") as stream:
                pairs.append((file.path, hashlib.file_digest(stream, "sha256").digest()))
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror or error}") from error
    return content_digest(pairs)


def _test_folder(root: Path, wanted: str | None) -> str | None:
    found = [name for name in ("val", "test") if (root / name).is_dir()]
    if wanted is not None:
        if wanted not in found:
            raise InputError(f"{root / wanted}: no such folder")
        return wanted
    if len(found) > 1:
        raise InputError(
            f"{root}: holds val/ and test/; name the one that has labels "
            "(allowed: `test_folder: val` or `test_folder: test`)"
        )
    return found[0] if found else None


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder (an image folder holds train/ and val/ or test/, and in "
            "each a folder a class)"
        )
    with os.scandir(folder) as entries:
        classes = tuple(sorted(entry.name for entry in entries if entry.is_dir()))
    if len(classes) < 2:
        raise InputError(f"{folder}: {len(classes)} class folders (allowed: two or more)")
    return classes


def _images(root: Path, part: str, classes: tuple[str, ...]) -> tuple[ImageFile, ...]:
    with os.scandir(root / part) as entries:
        unknown = sorted({e.name for e in entries if e.is_dir()} - set(classes))
    if unknown:
        raise InputError(f"{root / part / unknown[0]}: no such class in train/")
    files = []
    for label, name in enumerate(classes):
        walk = os.walk(root / part / name, followlinks=True, onerror=_raise)
        for folder, _, names in sorted(map(_without_loops, walk)):
            relative = Path(folder).relative_to(root)
            files += [
                ImageFile(str(relative / file), label)
                for file in sorted(names)
                if file.lower().endswith(EXTENSIONS)
            ]
    if not files:
        raise InputError(f"{root / part}: holds no image ({', '.join(EXTENSIONS)})")
    return tuple(files)


_Walked = tuple[str, list[str], list[str]]


def _without_loops(walked: _Walked) -> _Walked:
    """Refuse a link to a folder that contains it, since the walk would never end."""
    folder, inside, _ = walked
    here = Path(folder).resolve()
    for name in inside:
        path = Path(folder, name)
        if path.is_symlink() and path.resolve() in (here, *here.parents):
            raise InputError(f"{path}: a link to a folder that it lies in")
    return walked


def _raise(error: OSError) -> NoReturn:
    """Do not skip folders that cannot be read, as os.walk does by default."""
    raise error
