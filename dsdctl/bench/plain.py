"""The other side: the loop that one would write first, in the open.

PIL images through torchvision transforms in a DataLoader, torch.nn.utils.prune's masks, an eager
optimizer, contiguous fp32 tensors, the teacher called for every batch, one process with all cores.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset

from dsdctl.bench.cases import (
    ADAMW_LR,
    ALPHA,
    CLIP_NORM,
    DIGITS_EPOCHS,
    LABEL_SMOOTHING,
    LR,
    MOMENTUM,
    TEMPERATURE,
    WARMUP,
    WEIGHT_DECAY,
    Job,
    Work,
    case_images,
    case_network,
)
from dsdctl.ml.kernels.convolution import Conv3x3
from dsdctl.ml.kernels.relu_norm import FusedSequential
from dsdctl.ml.networks.vgg import AdaptivePool
from dsdctl.system.torchvision import transforms

PREFETCHED = 2
"""Batches that a DataLoader has each of its workers make ahead, by default."""


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as PIL gives them, transformed one by one; `augmented` draws a view of each."""

    def __init__(self, job: Job, augmented: bool):
        split = case_images(job)
        self.pictures = [Image.fromarray(np.squeeze(image)) for image in split.pixels.numpy()]
        self.labels: list[int] = split.labels.tolist()
        views = [transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, padding=4)]
        normalize = transforms.Normalize(job.normalization.mean, job.normalization.std)
        plain = [transforms.ToTensor(), normalize]
        self.transform = transforms.Compose([*(views if augmented else []), *plain])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def prepare(job: Job) -> Work:
    """Everything of `job` that is done once, and the work that is timed."""
    torch.set_num_threads(job.threads)
    torch.backends.cudnn.allow_tf32 = False
    return _measuring(job) if job.case == "measure" else _training(job)


def _training(job: Job) -> Work:
    assert job.case != "table"
    network = _plain(case_network(job.case)).to(job.device).train()
    prune.global_unstructured(_prunable(network), pruning_method=prune.L1Unstructured, amount=0.2)
    step = _adamw_step(network) if job.case == "student-adamw" else _sgd_step(network)
    loss_of = _loss(job)
    batches = _endless(PilImages(job, augmented=not job.is_digits), job)
    evaluate = _measuring(job, network).run if job.is_digits else None

    def run() -> int:
        images = 0
        for _ in range(DIGITS_EPOCHS if job.is_digits else job.batches):
            batch, labels = next(batches)
            batch, labels = batch.to(job.device), labels.to(job.device)
            loss = loss_of(network(batch), batch, labels)
            network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            step()
            loss.item()  # for the progress bar
            images += len(labels)
        if evaluate is not None:
            evaluate()
            network.train()
        return images

    def settle() -> None:
        """Drop the batches that the workers have made ready meanwhile: they were not timed."""
        for _ in range(PREFETCHED * job.loader_workers):
            next(batches)

    return Work(run, settle)


def _sgd_step(network: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.SGD(
        network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    return optimizer.step


def _adamw_step(network: nn.Module) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=ADAMW_LR, weight_decay=WEIGHT_DECAY)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / WARMUP)

    def step() -> None:
        nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()
        warmup.step()

    return step


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _loss(job: Job) -> Loss:
    if job.case == "student-distilled":
        return _distillation(job)
    smoothing = LABEL_SMOOTHING if job.case == "student-adamw" else 0.0
    return lambda logits, _batch, labels: F.cross_entropy(logits, labels, label_smoothing=smoothing)


def _distillation(job: Job) -> Loss:
    teacher = _plain(case_network("teacher")).to(job.device).eval()

    def loss(logits: Tensor, batch: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            taught = F.log_softmax(teacher(batch) / TEMPERATURE, dim=1)
        student = F.log_softmax(logits / TEMPERATURE, dim=1)
        soft = F.kl_div(student, taught, reduction="batchmean", log_target=True)
        return (1 - ALPHA) * F.cross_entropy(logits, labels) + ALPHA * TEMPERATURE**2 * soft

    return loss


def _measuring(job: Job, network: nn.Module | None = None) -> Work:
    """An evaluation that keeps every ReLU's state of every image."""
    if network is None:
        network = _plain(case_network("measure")).to(job.device)
    loader = _loader(PilImages(job, augmented=False), job)

    def run() -> int:
        network.eval()
        states: dict[str, list[Tensor]] = {}
        handles = [
            module.register_forward_hook(
                lambda _m, _i, output, name=name: states.setdefault(name, []).append(output > 0)
            )
            for name, module in network.named_modules()
            if isinstance(module, nn.ReLU)
        ]
        images = correct = 0
        with torch.no_grad():
            for batch, labels in loader:
                predicted = network(batch.to(job.device)).argmax(1).cpu()
                correct += int((predicted == labels).sum())
                images += len(labels)
        for handle in handles:
            handle.remove()
        for kept in states.values():
            p = torch.cat(kept).float().mean(0)
            (torch.special.entr(p) + torch.special.entr(1 - p)).mean().item()
        return images

    return Work(run)


def _plain(network: nn.Module) -> nn.Module:
    """The same network of torch's own modules, in the default memory layout."""
    torchs = {
        Conv3x3: nn.Conv2d,
        AdaptivePool: nn.AdaptiveAvgPool2d,
        FusedSequential: nn.Sequential,
    }
    for module in network.modules():
        # Ours only compute the same in another way.
        module.__class__ = torchs.get(type(module), type(module))
    return network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def _prunable(network: nn.Module) -> list[tuple[nn.Module, str]]:
    kinds = nn.Conv2d | nn.Linear
    return [(module, "weight") for module in network.modules() if isinstance(module, kinds)]


def _loader(images: PilImages, job: Job) -> DataLoader[tuple[Tensor, int]]:
    workers = job.loader_workers
    return DataLoader(
        images,
        batch_size=job.batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=job.device == "cuda",
    )


def _endless(images: PilImages, job: Job) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch after batch, epoch after epoch."""
    loader = _loader(images, job)
    while True:
        yield from loader
