"""How a level is optimized: its settings, its learning rate batch by batch, torch's optimizers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Settings:
    """How one level is trained. What its `optimizer` or `schedule` does not have does nothing.

    `milestones` are epochs at which the rate is scaled by `gamma`; `warmup` counts epochs.
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

        lr x warm x decay. The first W = warmup x batches steps are warmed up: warm is (t + 1) / W
        at step t. Decay is gamma^(milestones passed), or falls from 1 at the end of the warm-up
        towards `min_lr_factor` along half a cosine.
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
"""What torch's optimizers keep of each parameter, and its name in a checkpoint."""


def make_optimizer(
    settings: Settings, parameters: Iterable[Tensor], device: torch.device
) -> torch.optim.Optimizer:
    """torch's own, fused. On a GPU its rate and its counts of steps lie in memory, from where a
    recorded step reads them."""
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
    """Set the learning rate, in its place in memory where that may have been recorded."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
