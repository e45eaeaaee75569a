"""What each case trains or measures, alike for both sides."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from dsdctl.bench.results import CaseName
from dsdctl.data.facts import dataset_facts
from dsdctl.data.sources import load_digits, load_npz
from dsdctl.errors import InputError
from dsdctl.ml.data import Split
from dsdctl.ml.kernels.choice import Mode
from dsdctl.ml.macs import count_macs
from dsdctl.ml.masks import Masks, count_nonzero, dense_masks, prunable_weights, remove_lowest
from dsdctl.ml.networks.build import build_network
from dsdctl.ml.networks.network import Network
from dsdctl.ml.networks.resnet import ResNet18
from dsdctl.ml.networks.vgg import VGGLike
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.scores import magnitude_scores
from dsdctl.ml.views import Normalization, Views
from dsdctl.spec.dataset import Dataset
from dsdctl.spec.fields import Model, Precision
from dsdctl.system.devices import Device
from dsdctl.worker.inputs import as_split

SEED = 0
CLASSES = 10
ALPHA, TEMPERATURE = 0.8, 10.0
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4
ADAMW_LR, CLIP_NORM, LABEL_SMOOTHING = 0.001, 1.0, 0.1
WARMUP = 1_000_000
"""Batches, so many that the rate still rises when the bench ends."""
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = Normalization((0.3,), (0.37,))

BATCH = 128
DIGITS_IMAGES, DIGITS_EPOCHS = 800, 30
"""Full batches of 800 images of the digits, for the student of specs/digits.yaml."""


@dataclass(frozen=True)
class Work:
    """`run` is timed and returns how many images it went through; `settle` comes before it."""

    run: Callable[[], int]
    settle: Callable[[], None] = lambda: None


class Job(Model):
    """What one process of a side is to do: `streams` trajectories at once, in a thread each.

    Without `recorded` a step is never replayed as one graph, where a GPU could.
    """

    side: Literal["ours", "plain"]
    case: CaseName | Literal["table"]
    precision: Precision
    device: Device
    threads: int
    batches: int
    images: str | None
    loader_workers: int = 0
    kernels: Mode = "off"
    streams: int = 1
    recorded: bool = True

    @property
    def is_digits(self) -> bool:
        return self.case == "digits-level"

    @property
    def batch_size(self) -> int:
        return DIGITS_IMAGES if self.is_digits else BATCH

    @property
    def views(self) -> Views:
        return Views() if self.is_digits else Views(flip=True, crop=4)

    @property
    def normalization(self) -> Normalization:
        return GREY if self.is_digits else IMAGENET


def case_images(job: Job) -> Split:
    """The digits, the given archive's first images, or random ones, on the CPU."""
    if job.is_digits:
        return as_split(load_digits().train).take(torch.arange(DIGITS_IMAGES))
    count = job.batches * BATCH
    if job.images is not None:
        return load_images(Path(job.images), count)
    return _random_images(count)


@functools.lru_cache(maxsize=1)
def _random_images(count: int) -> Split:
    """Drawn once for all streams of a process."""
    stream = torch.Generator().manual_seed(SEED)
    pixels = torch.randint(0, 256, (count, 32, 32, 3), generator=stream, dtype=torch.uint8)
    return Split(pixels, torch.randint(0, CLASSES, (count,), generator=stream))


def load_images(file: Path, count: int) -> Split:
    """The first `count` training images of an archive. Raises InputError."""
    try:
        facts = dataset_facts(Dataset(name="npz", file=str(file)), file)
    except InputError as error:
        raise InputError(f"--images: {error}") from error
    if facts.shape != (32, 32, 3) or facts.classes > CLASSES:
        height, width, channels = facts.shape
        raise InputError(
            f"--images: {file}: images of {height} x {width} x {channels} in {facts.classes} "
            f"classes (allowed: 32 x 32 x 3 in at most {CLASSES})"
        )
    if facts.train_images < count:
        raise InputError(f"--images: {file}: holds {facts.train_images} images, {count} are needed")
    return as_split(load_npz(file, str(facts.content)).train).take(torch.arange(count))


def case_network(case: CaseName) -> Network:
    """The network that a case trains or measures."""
    if case == "teacher":
        return build_network(ResNet18, 3, CLASSES, seed=SEED)
    if case == "digits-level":
        return build_network(VGGLike, 1, CLASSES, seed=SEED, depth=2, width=16, pool=2)
    return build_network(VGGLike, 3, CLASSES, seed=SEED, depth=5, width=32)


def case_masks(network: nn.Module) -> Masks:
    """The masks of level 1: 20 % of the weights are gone."""
    weights = prunable_weights(network)
    masks = dense_masks(weights)
    return remove_lowest(magnitude_scores(weights), masks, round(0.2 * count_nonzero(masks)))


def case_settings(job: Job) -> Settings:
    """The paper's training but for its rate, at which random images diverge; or all that it has
    not: AdamW, a warm-up, clipped gradients."""
    settings = Settings(
        epochs=1_000_000,
        batch_size=job.batch_size,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        milestones=(),
        gamma=1.0,
        precision=job.precision,
    )
    if job.case != "student-adamw":
        return settings
    return replace(
        settings,
        optimizer="adamw",
        lr=ADAMW_LR,
        schedule="constant",
        warmup=WARMUP // job.batches,
        clip_norm=CLIP_NORM,
    )


def macs_per_image(case: CaseName) -> int:
    """Multiply-accumulates an image: three forward passes where the case trains, else one."""
    side, channels = (8, 1) if case == "digits-level" else (32, 3)
    forward = count_macs(case_network(case), channels, side, side).total
    return forward if case == "measure" else 3 * forward
