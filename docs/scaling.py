"""Measure what a run costs against epochs, levels, images and width; draw it log-log.

    python docs/scaling.py docs/scaling.png

Each point is a real `dsdctl run --jobs 1` on random images in a fresh store; its cost is
the sum of the levels' own wall times, as they are recorded with the results. Each is run twice.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

BASE = {"epochs": 4, "levels": 4, "images": 2000, "width": 16}
POINTS = {
    "epochs": [1, 2, 4, 8, 16],
    "levels": [1, 2, 4, 8, 16],
    "images": [250, 500, 1000, 2000, 4000],
    "width": [4, 8, 16, 32],
}
REPEATS = 2

SPEC = """
experiment: scaling
dataset: {{name: npz, file: images.npz, augment: {{flip: true, crop: 2}}}}
student: {{arch: vgg-like, depth: 3, width: {width}, pool: 1}}
training: {{epochs: {epochs}, batch_size: 100, optimizer: {{lr: 0.001}}}}
pruning: {{levels: {rounds}}}
recipes: [vanilla]
seeds: [0]
"""


def cost(folder: Path, epochs: int, levels: int, images: int, width: int) -> float:
    """Seconds of all levels of one run."""
    pixels = np.random.default_rng(0).integers(0, 256, (images + 100, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(images + 100) % 10
    np.savez(
        folder / "images.npz",
        x_train=pixels[:images], y_train=labels[:images],
        x_test=pixels[images:], y_test=labels[images:],
    )  # fmt: skip
    spec = SPEC.format(epochs=epochs, rounds=levels - 1, width=width)
    (folder / "scaling.yaml").write_text(spec)
    command = [
        sys.executable,
        "-m",
        "dsdctl",
        "run",
        "scaling.yaml",
        "--jobs",
        "1",
        "--device",
        "cpu",
    ]
    subprocess.run([*command, "--store", "store"], cwd=folder, check=True, capture_output=True)
    files = (folder / "store" / "levels").glob("*/*/environment.json")
    return sum(json.loads(file.read_text())["wall_seconds"] for file in files)


def measure(axis: str) -> list[tuple[int, list[float]]]:
    """Each value of `axis` with its costs, all else as in BASE."""
    found = []
    for value in POINTS[axis]:
        costs = []
        for _ in range(REPEATS):
            with tempfile.TemporaryDirectory() as folder:
                costs.append(cost(Path(folder), **{**BASE, axis: value}))
        print(f"{axis} {value}: {min(costs):.2f} to {max(costs):.2f} s", flush=True)
        found.append((value, costs))
    return found


def slope(points: list[tuple[int, list[float]]]) -> float:
    """The exponent between the two largest points."""
    (x0, y0), (x1, y1) = ((x, statistics.median(y)) for x, y in points[-2:])
    return float(np.log(y1 / y0) / np.log(x1 / x0))


def draw(measured: dict[str, list[tuple[int, list[float]]]]) -> Figure:
    """One panel an axis: medians with their range, and a dotted line that is linear."""
    figure = Figure(figsize=(7, 2.4), layout="constrained")
    for axes, (axis, points) in zip(
        figure.subplots(1, len(measured), sharey=True), measured.items(), strict=True
    ):
        values = [value for value, _ in points]
        medians = [statistics.median(costs) for _, costs in points]
        below = [m - min(c) for m, (_, c) in zip(medians, points, strict=True)]
        above = [max(c) - m for m, (_, c) in zip(medians, points, strict=True)]
        axes.errorbar(values, medians, [below, above], marker="o", markersize=3, color="black")
        reference = [medians[-1] * value / values[-1] for value in values]
        axes.plot(values, reference, linestyle=":", color="grey", label="linear")
        axes.set(xscale="log", yscale="log", xlabel=axis, title=f"last slope {slope(points):.2f}")
        axes.set_xticks(values, [str(value) for value in values], fontsize=6)
        axes.minorticks_off()
        axes.title.set_fontsize(8)
    figure.axes[0].set_ylabel("seconds of all levels")
    figure.axes[0].legend(fontsize=7, frameon=False)
    return figure


if __name__ == "__main__":
    draw({axis: measure(axis) for axis in POINTS}).savefig(sys.argv[1], dpi=200)
