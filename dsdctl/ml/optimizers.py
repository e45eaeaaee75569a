"""How a level is optimized: the settings, the learning rate of each batch, torch's optimizers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """How one level is trained. Options that `optimizer` or `schedule` does not have are ignored.

    `milestones` are the epochs, from 0, at which the learning rate is multiplied by `gamma`;
    `warmup` is in epochs; `clip_norm` is the largest joint l2 norm of the gradients.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    milestones: tuple[int, ...]
    gamma: float
    precision: str
    optimizer: Literal["sgd", "adamw"] = "sgd"
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    schedule: Literal["step", "cosine", "constant"] = "step"
    warmup: int = 0
    min_lr_factor: float = 0.0
    clip_norm: float | None = None

    def lr_at(self, epoch: int, batch: int = 0, batches: int = 1) -> float:
        """Learning rate of a batch of `epoch`, both counted from 0; an epoch has `batches`.

        It is lr x warm-up x decay. The warm-up factor is (t + 1) / W at step t of the first
        W = warmup x batches, then 1. The decay is constant within an epoch: gamma^(milestones
        passed), or half a cosine from 1 at the end of the warm-up towards `min_lr_factor`.
        """
        lr = self.lr * self._decay(epoch)
        if epoch < self.warmup:
            lr *= (epoch * batches + batch + 1) / (self.warmup * batches)
        return lr

    def _decay(self, epoch: int) -> float:
        if self.schedule == "cosine":
            done = max(0, epoch - self.warmup) / (self.epochs - self.warmup)
            low = self.min_lr_factor
            return low + (1 - low) * (1 + math.cos(math.pi * done)) / 2
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


STATE = {
    "momentum_buffer": "momentum",
    "exp_avg": "exp_avg",
    "exp_avg_sq": "exp_avg_sq",
    "step": "step",
}
"""Names in a checkpoint of what torch's optimizers keep for each parameter."""


def make_optimizer(
    settings: Settings, parameters: Iterable[Tensor], device: torch.device
) -> torch.optim.Optimizer:
    """torch's fused optimizer. On a GPU its learning rate and step counts are tensors, so that a
    CUDA graph reads their current values."""
    on_gpu = device.type == "cuda"
    lr = torch.tensor(settings.lr, device=device) if on_gpu else settings.lr
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=lr,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            capturable=on_gpu,
            fused=True,
        )
    return torch.optim.SGD(
        parameters,
        lr=lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=True,
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate; in place if it is a tensor, which a CUDA graph may read."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
