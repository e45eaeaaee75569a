"""Rehearse a training run: some hundred batches of level 0, to learn its speed and memory."""

import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dsdctl.data.prepare import MEMORY_BUDGET, Files, exceeds
from dsdctl.ml.data import Data, Images, MappedImages, Split
from dsdctl.ml.device import configure
from dsdctl.ml.divergence import Diverged, LossWatch, check_finite
from dsdctl.ml.graph import capture_on
from dsdctl.ml.randomness import generator, stream_seed
from dsdctl.ml.teacher import cached_logits, direct_logits
from dsdctl.ml.train import LossFunction, Trainer
from dsdctl.ml.views import Reader
from dsdctl.results import Rehearsed
from dsdctl.worker.inputs import load_data, training_reader
from dsdctl.worker.level import settings_of, steps_of
from dsdctl.worker.losses import distillation_loss_of, label_loss_of
from dsdctl.worker.networks import new_network, source_of
from dsdctl.worker.rehearsal_tasks import Job
from dsdctl.worker.starting_point import initial_network

DISTINCT = 1024
"""Distinct random images that stand in for a data set that would stay on disk."""


def run_job(job: Job, show: Callable[[int], None]) -> Rehearsed:
    """Train as level 0 would be trained; `show` is called with the number of batches done.

    Raises WorkError if the data are not what they should be.
    """
    device = torch.device(job.device)
    configure(device, job.threads)
    data = _data(job, device)
    reader = training_reader(job.identity.images, data.train)
    source = source_of(job.identity.network, job.source)
    network = initial_network(job.identity, data, device, source=source)
    settings, loss = settings_of(job.identity), _loss(job, reader, device)
    trainer = Trainer(network, None, settings, loss, capture_on(device))
    record = _Record(show)
    diverged = None
    try:
        _train(job, trainer, reader, data.train.labels, record)
    except Diverged as error:
        diverged = error
    return Rehearsed(
        batches=record.batches,
        losses=record.losses(),
        images_per_second=record.rate() if diverged is None else None,
        memory="GPU" if device.type == "cuda" else "resident",
        peak_bytes=_peak_bytes(device),
        diverged=str(diverged) if diverged else None,
        diverged_epoch=diverged.epoch if diverged else None,
        diverged_batch=diverged.batch if diverged else None,
    )


def _train(job: Job, trainer: Trainer, reader: Reader, labels: Tensor, record: "_Record") -> None:
    """Train on the job's batches, as a level does. Raises Diverged."""
    identity = job.identity
    before = 0.0
    all_steps = steps_of(identity, len(labels))
    for epoch, steps in enumerate(all_steps):
        watch = _RecordedWatch(epoch, before, is_last=epoch + 1 == len(all_steps), record=record)
        before = trainer.train_epoch(
            reader, labels, seed=identity.seed, level=0, epoch=epoch, steps=steps, watch=watch
        ).loss
    check_finite(trainer.network, epoch)


class _Record:
    """Readings during a rehearsal: images and seconds so far, mean loss since the last reading."""

    def __init__(self, show: Callable[[int], None]):
        self.batches = 0
        self._show = show
        self._began = time.perf_counter()
        self._readings: list[tuple[int, float, float]] = []

    def add(self, batches: int, images: int, loss: float) -> None:
        """Add a reading after `batches` more batches, with so many images and this mean loss."""
        before = self._readings[-1][0] if self._readings else 0
        self._readings.append((before + images, time.perf_counter() - self._began, loss))
        self.batches += batches
        self._show(self.batches)

    def losses(self) -> tuple[float, ...]:
        """The first and the last mean loss, without those that are not finite."""
        ends = self._readings[:1] + self._readings[1:][-1:]
        return tuple(loss for _, _, loss in ends if math.isfinite(loss))

    def rate(self) -> float:
        """Images per second since the first reading, before which much is set up; or, if there is
        only one, up to that."""
        images, seconds, _ = self._readings[-1]
        if len(self._readings) > 1:
            images -= self._readings[0][0]
            seconds -= self._readings[0][1]
        return images / max(seconds, 1e-9)


class _RecordedWatch(LossWatch):
    """Watches the losses of an epoch, and records each reading."""

    def __init__(self, epoch: int, before: float, *, is_last: bool, record: _Record):
        super().__init__(epoch, before, is_last=is_last)
        self._record = record
        self._before = (0, 0)

    def check(self, batch: int, images: int, total: float) -> None:
        batches_before, images_before = self._before
        mean = self.mean_since(images, total)
        self._record.add(batch - batches_before, images - images_before, mean)
        self._before = (batch, images)
        super().check(batch, images, total)


# Random stand-ins for data and teachers that do not exist yet


def _data(job: Job, device: torch.device) -> Data:
    identity = job.identity
    if job.dataset_path is not None:
        files = Files(Path(job.dataset_path), Path(job.spare))
        return load_data(identity.images, identity.noise, files, device)
    stream = generator("rehearsal")
    labels = torch.randint(job.classes, (job.images,), generator=stream)
    split = Split(_random_images(job).to(device), labels.to(device))
    return Data(split, split.labels, split, split, job.classes)


def _random_images(job: Job) -> Images:
    """As many random images as the data set has; if those would stay on disk, DISTINCT of them
    repeated."""
    on_disk = exceeds(MEMORY_BUDGET, job.identity.images, job.images * math.prod(job.shape))
    count = min(job.images, DISTINCT) if on_disk else job.images
    draw = np.random.default_rng(stream_seed("rehearsal"))
    pixels = draw.integers(256, size=(count, *job.shape), dtype=np.uint8)
    if on_disk:
        return MappedImages(pixels, torch.arange(job.images) % count, torch.device("cpu"))
    return torch.from_numpy(pixels)


def _loss(job: Job, reader: Reader, device: torch.device) -> LossFunction:
    """The loss of the level, with random logits in place of a teacher's."""
    training, teaching = job.identity.training, job.teaching
    if teaching is None:
        return label_loss_of(training)
    if teaching.network is not None:
        source = source_of(teaching.network, teaching.source)
        teacher = new_network(teaching.network, job.shape, job.classes, source=source)
        logits = direct_logits(teacher.to(device))
    else:
        table = torch.empty(job.images, reader.views.count, job.classes)
        logits = cached_logits(table.normal_(generator=generator("rehearsal")).to(device))
    return distillation_loss_of(training, teaching.loss, logits)


def _peak_bytes(device: torch.device) -> int:
    """Peak memory: of tensors on a GPU, else the resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    # getrusage may include the peak of the process that started this one.
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # elsewhere in KiB
