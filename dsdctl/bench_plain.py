"""The loop that dsdctl is measured against, as one would write it first.

PIL images through torchvision transforms in a DataLoader, torch.nn.utils.prune's masks, eager SGD,
and the teacher called for every batch. fp32, contiguous tensors, all cores.
"""

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class Setup:
    """What is trained on what: images (N, H, W, C) uint8, normalisation, batch, workers."""

    network: nn.Module
    teacher: nn.Module | None
    images: np.ndarray
    labels: list[int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: bool
    batch: int
    workers: int
    device: torch.device


class PilImages(Dataset[tuple[Tensor, int]]):
    """Images as PIL gives them, transformed one by one."""

    def __init__(self, setup: Setup):
        from torchvision import transforms

        from dsdctl.ml import torchvision_compat  # noqa: F401  (lets torchvision import)

        self.pictures = [Image.fromarray(image.squeeze()) for image in setup.images]
        self.labels = setup.labels
        size = setup.images.shape[1]
        views = [transforms.RandomHorizontalFlip(), transforms.RandomCrop(size, padding=4)]
        plain = [transforms.ToTensor(), transforms.Normalize(setup.mean, setup.std)]
        self.transform = transforms.Compose([*(views if setup.augment else []), *plain])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def plain_copy(network: nn.Module) -> nn.Module:
    """The same network in the default memory layout."""
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def rate(setup: Setup) -> float:
    """Images a second of training, after a warm-up batch."""
    network = setup.network.to(setup.device).train()
    teacher = setup.teacher.to(setup.device).eval() if setup.teacher is not None else None
    weights = [
        (module, "weight")
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=0.2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    images, started = 0, 0.0
    for number, (batch, labels) in enumerate(_endless(setup)):
        batch, labels = batch.to(setup.device), labels.to(setup.device)
        logits = network(batch)
        loss = F.cross_entropy(logits, labels)
        if teacher is not None:
            with torch.no_grad():
                taught = F.log_softmax(teacher(batch) / 10, dim=1)
            student = F.log_softmax(logits / 10, dim=1)
            soft = F.kl_div(student, taught, reduction="batchmean", log_target=True)
            loss = 0.2 * loss + 0.8 * 100 * soft
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()  # for the progress bar
        if number == 0:
            started = time.perf_counter()
            continue
        images += len(labels)
        if images >= len(setup.labels):
            break
    return images / (time.perf_counter() - started)


def measure_rate(setup: Setup) -> float:
    """Images a second of an evaluation that keeps every ReLU's state, after a warm-up batch."""
    network = setup.network.to(setup.device).eval()
    states: dict[str, list[Tensor]] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(
                lambda _m, _i, output, name=name: states.setdefault(name, []).append(output > 0)
            )
    images, correct, started = 0, 0, 0.0
    with torch.no_grad():
        for number, (batch, labels) in enumerate(_endless(setup)):
            hits = network(batch.to(setup.device)).argmax(1).cpu() == labels
            correct += int(hits.sum())
            if number == 0:
                started = time.perf_counter()
                continue
            images += len(labels)
            if images >= len(setup.labels):
                break
    for kept in states.values():
        share = torch.cat(kept).float().mean(0)
        torch.special.entr(share).add(torch.special.entr(1 - share)).mean().item()
    return images / (time.perf_counter() - started)


def _endless(setup: Setup) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch after batch, epoch after epoch."""
    loader = DataLoader(
        PilImages(setup),
        batch_size=setup.batch,
        shuffle=True,
        num_workers=setup.workers,
        persistent_workers=setup.workers > 0,
    )
    while True:
        yield from loader
