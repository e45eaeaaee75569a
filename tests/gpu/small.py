"""What several stages make: images, specs, commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dsdctl.ml.kernels.choice import Mode

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}

KERNELS: Mode = "all"
"""What is tried and measured, against "off": kernels for GPUs that are not the default too."""


def random_archive(file: Path, train: int, test: int, side: int = 32) -> Path:
    """Random images of ten classes, each class of a colour, as the `npz` data set reads them."""
    draw = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", train), ("test", test)):
        labels = np.arange(count, dtype=np.int64) % 10
        pixels = draw.integers(0, 128, (count, side, side, 3), dtype=np.uint8)
        pixels[..., 0] += (12 * labels[:, None, None]).astype(np.uint8)
        arrays[f"x_{name}"], arrays[f"y_{name}"] = pixels, labels
    np.savez(file, **arrays)
    return file


def write_spec(file: Path, archive: Path, **changes: Any) -> Path:
    """A spec on an archive's images (YAML is JSON too): a small student unless changed."""
    spec = {
        "experiment": file.stem,
        "dataset": {"name": "npz", "file": str(archive), "augment": {"flip": True, "crop": 4}},
        "label_noise": {"rate": 0.2},
        "student": {"arch": "vgg-like", "depth": 2, "width": 16},
        "teacher": {"arch": "vgg-like", "depth": 2, "width": 32},
        "training": {"epochs": 3, "batch_size": 128, "precision": "bf16"},
        "pruning": {"fraction": 0.4, "levels": 1},
        "recipes": ["vanilla"],
        "seeds": [0],
    }
    file.write_text(json.dumps({**spec, **changes}, indent=1))
    return file


def dsdctl(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder` to its end."""
    line = [sys.executable, "-m", "dsdctl", *map(str, words)]
    return subprocess.run(
        line, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": python_path(), **environment},
    )  # fmt: skip


def python_path() -> str:
    """This checkout first, wherever a command runs."""
    root = str(Path(__file__).parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


def result_bytes(store: Path) -> dict[str, bytes]:
    """All that a store holds of results, by path; when and where they were computed is none."""
    of_the_machine = ("environment.json", "checksums.json")
    return {
        str(file.relative_to(store)): file.read_bytes()
        for part in ("levels", "tables")
        for file in sorted((store / part).rglob("*"))
        if file.is_file() and file.name not in of_the_machine
    }
