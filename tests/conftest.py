"""Fixtures that several test files use."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["WANDB_MODE"] = "offline"

ROOT = Path(__file__).parent.parent

TINY = """\
experiment: tiny
title: Five recipes on a network that trains in a moment
dataset: {name: digits, test: {fraction: 0.4}, validation: {fraction: 0.2, labels: clean}}
label_noise: {rate: 0.4}
student: {arch: vgg-like, depth: 1, width: 4, pool: 2}
teacher: {arch: vgg-like, depth: 1, width: 6, pool: 2}
training: {epochs: 2, batch_size: 200, optimizer: {lr: 0.05}}
pruning: {levels: 3, fraction: 0.3, retrain: rewind}
recipes: [vanilla, early-stop, kd-dense-teacher, kd-pruned-teacher, entropy-early-stop]
seeds: [0, 1]
"""

Dsdctl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A spec that runs in seconds."""
    spec = tmp_path / "tiny.yaml"
    spec.write_text(TINY)
    return spec


@pytest.fixture
def dsdctl(tmp_path: Path) -> Dsdctl:
    """Runs the command as a user would, in a folder of its own."""

    def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "dsdctl", *map(str, arguments)]
        settings = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 200}
        return subprocess.run(line, check=False, **{**settings, **options})

    return command
