"""A spec that runs in seconds, and names that several test files share."""

import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]

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

FULL_FOR_SEED_0 = """\
train_epoch = Trainer.train_epoch


def full_for_seed_0(trainer, *arguments, seed, epoch, **options):
    if seed == 0 and epoch == 1:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
        )
    return train_epoch(trainer, *arguments, seed=seed, epoch=epoch, **options)


Trainer.train_epoch = full_for_seed_0
"""
"""For a main module that has torch and Trainer: one level meets with what torch raises where a GPU
is full. Worker processes import it as their main module, so the error is raised in a real one."""
