"""The images that Table 1 is tried on, as an archive that the `npz` data set reads."""

import io
import itertools
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from dsdctl.system.devices import usable_cores

from .small import random_archive

CHUNK = 1000
"""JPEG files that a process decodes at once."""


def decoded(jpegs: Path, file: Path) -> Path:
    """Decode an archive of JPEG files, see tests.gpu, into `file`, on all cores."""
    arrays = {}
    with np.load(jpegs) as archive, ProcessPoolExecutor(usable_cores()) as pool:
        for split in ("train", "test"):
            blob, offsets = archive[f"{split}_jpeg"], archive[f"{split}_offsets"]
            starts = range(0, len(offsets) - 1, CHUNK)
            bounds = [offsets[start : start + CHUNK + 1] for start in starts]
            parts = [(blob[ends[0] : ends[-1]], ends - ends[0]) for ends in bounds]
            arrays[f"x_{split}"] = np.concatenate(list(pool.map(_decode, parts)))
            arrays[f"y_{split}"] = archive[f"{split}_labels"].astype(np.int64)
    np.savez(file, **arrays)
    return file


def _decode(part: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """JPEG files end to end and where each begins: uint8 (N, H, W, C)."""
    blob, offsets = part
    files = [blob[start:end].tobytes() for start, end in itertools.pairwise(offsets)]
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])


def first_images(archive: Path, file: Path, count: int) -> Path:
    """An archive of the first `count` training images, and all of the test images."""
    with np.load(archive) as whole:
        if len(whole["y_train"]) <= count:
            return archive
        np.savez(
            file,
            x_train=whole["x_train"][:count],
            y_train=whole["y_train"][:count],
            x_test=whole["x_test"],
            y_test=whole["y_test"],
        )
    return file


def archive(images: Path | None, jpegs: Path | None, folder: Path, *, tiny: bool) -> Path:
    """What was given; random images where nothing was."""
    if images is not None:
        return images.resolve()
    if jpegs is not None:
        return decoded(jpegs, folder / "images.npz")
    counts = (200, 50) if tiny else (50_000, 10_000)
    return random_archive(folder / "images.npz", *counts, side=8 if tiny else 32)
