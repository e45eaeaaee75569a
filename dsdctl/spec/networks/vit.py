"""A small vision transformer."""

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from dsdctl.spec.networks.base import BuiltInNetwork, Task


class ViT(BuiltInNetwork):
    """A small vision transformer with GELUs, without dropout."""

    MODULE: ClassVar = "vit:ViT"
    ONE_SIZE: ClassVar = True
    BATCHNORM: ClassVar = False
    LAYERNORM: ClassVar = True

    arch: Literal["vit"]
    patch: int = Field(4, ge=1, le=256, description="side of a patch in pixels")
    dim: int = Field(512, ge=1, le=8192, description="features of a token")
    depth: int = Field(6, ge=1, le=64, description="encoder blocks")
    heads: int = Field(8, ge=1, le=256, description="attention heads of dim / heads features")
    mlp_dim: int = Field(512, ge=1, le=65_536, description="hidden units of a block's MLP")

    @model_validator(mode="after")
    def _heads_share_the_features(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"has {self.heads} heads, which do not divide its dim of {self.dim}")
        return self

    def layer_weights(self, task: Task) -> dict[str, int]:
        """Weights by layer; the size of the images affects only the number of tokens."""
        dim, mlp = self.dim, self.mlp_dim
        block = {
            "attention.qkv": dim * 3 * dim,
            "attention.out": dim * dim,
            "linear1": dim * mlp,
            "linear2": mlp * dim,
        }
        weights = {"embedding": task.channels * self.patch**2 * dim}
        for number in range(self.depth):
            weights |= {f"blocks.{number}.{layer}": count for layer, count in block.items()}
        return {**weights, "classifier": dim * task.classes}

    @property
    def smallest_side(self) -> int:
        """One patch."""
        return self.patch

    def images_problem(self, height: int, width: int, shown: int) -> tuple[str, str] | None:
        """Images must also consist of whole patches."""
        if height % self.patch or width % self.patch:
            common = math.gcd(height, width)
            reason = f"does not divide images of {height} x {width} pixels"
            return "patch", f"{reason} (allowed: a divisor of {common})"
        return super().images_problem(height, width, shown)
