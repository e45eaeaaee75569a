"""Our side: the code that `dsdctl run` runs, on one thread a process."""

import functools

import torch
from torch import Tensor

from dsdctl.bench.cases import (
    ALPHA,
    CLASSES,
    DIGITS_EPOCHS,
    LABEL_SMOOTHING,
    SEED,
    TEMPERATURE,
    Job,
    Work,
    case_images,
    case_masks,
    case_network,
    case_settings,
)
from dsdctl.ml.data import Data, Split
from dsdctl.ml.device import configure
from dsdctl.ml.graph import capture_on
from dsdctl.ml.measure import measure
from dsdctl.ml.teacher import build_table, cached_logits, distillation_from
from dsdctl.ml.train import LossFunction, Trainer, cross_entropy
from dsdctl.ml.views import ViewReader, Views


def prepare(job: Job) -> Work:
    """Everything of `job` that is done once, and the work that is timed."""
    device = torch.device(job.device)
    configure(device, job.threads)
    split = case_images(job)
    split = Split(split.images.to(device), split.labels.to(device))
    match job.case:
        case "measure":
            return _measuring(job, split)
        case "table":
            return _building_a_table(job, split)
        case _:
            return _training(job, split)


def _training(job: Job, split: Split) -> Work:
    assert job.case != "table"
    device = split.images.device
    network = case_network(job.case).to(device)
    loss = _loss(job, split.labels)
    capture = capture_on(device) if job.recorded else None
    trainer = Trainer(network, case_masks(network), case_settings(job), loss, capture)
    reader = ViewReader(split.pixels, job.normalization, job.views)
    data = Data(split, split.labels, split, split, CLASSES)
    epoch = 0

    def run() -> int:
        nonlocal epoch
        epochs = DIGITS_EPOCHS if job.is_digits else 1
        for _ in range(epochs):
            trainer.train_epoch(reader, split.labels, seed=SEED, level=1, epoch=epoch)
            epoch += 1
        if job.is_digits:
            measure(network, data, job.normalization, job.precision)
        return epochs * len(split)

    return Work(run)


def _loss(job: Job, labels: Tensor) -> LossFunction:
    if job.case == "student-adamw":
        return functools.partial(cross_entropy, label_smoothing=LABEL_SMOOTHING)
    if job.case != "student-distilled":
        return cross_entropy
    # How fast a table is read does not depend on what it holds.
    table = torch.randn(len(labels), job.views.count, CLASSES, device=labels.device)
    return distillation_from(cached_logits(table), alpha=ALPHA, temperature=TEMPERATURE)


def _measuring(job: Job, split: Split) -> Work:
    network = case_network("measure").to(split.images.device)
    # Half of the images for the entropy pass, half for the accuracy alone.
    half = len(split) // 2
    train, test = split.take(torch.arange(half)), split.take(torch.arange(half, 2 * half))
    data = Data(train, train.labels, test, test, CLASSES)

    def run() -> int:
        measure(network, data, job.normalization, job.precision)
        return 2 * half

    return Work(run)


def _building_a_table(job: Job, split: Split) -> Work:
    device = split.images.device
    teacher = case_network("teacher").to(device)
    reader = ViewReader(split.pixels, job.normalization, Views(flip=True))

    def run() -> int:
        build_table(teacher, reader, len(split), job.precision, device)
        return len(split) * reader.views.count

    return Work(run)
