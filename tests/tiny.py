"""A spec that runs in seconds, and names that several test files share."""

import subprocess
from collections.abc import Callable
from pathlib import Path

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
