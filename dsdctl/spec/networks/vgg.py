"""The paper's VGG-like network."""

import math
from typing import ClassVar, Literal

from pydantic import Field

from dsdctl.spec.networks.base import BuiltInNetwork, Task


class VGGLike(BuiltInNetwork):
    """VGG-like: `depth` blocks of two conv3x3, `width` channels in the first, doubling."""

    MODULE: ClassVar = "vgg:VGGLike"

    arch: Literal["vgg-like"]
    depth: int = Field(5, ge=1, le=8, description="blocks of two 3x3 convolutions")
    width: int = Field(32, ge=1, le=4096, description="channels of the first block")
    pool: int = Field(7, ge=1, le=32, description="side of the adaptive average pool")

    def layer_weights(self, task: Task) -> dict[str, int]:
        """Weights by layer; none depends on the size of the images."""
        weights, channels = {}, task.channels
        for block in range(self.depth):
            outputs = self.width * 2**block
            # A block is conv, ReLU, BatchNorm, twice, and a max-pool.
            weights[f"features.{7 * block}"] = 9 * channels * outputs
            weights[f"features.{7 * block + 3}"] = 9 * outputs * outputs
            channels = outputs
        return {**weights, "classifier": channels * self.pool**2 * task.classes}

    @property
    def smallest_side(self) -> int:
        """Each block halves the images."""
        return int(2**self.depth)

    def too_small(self, side: int) -> tuple[str, str]:
        """The problem is with `depth`, since a smaller one would help."""
        most = int(math.log2(side))
        return "depth", f"halves images of {side} pixels to nothing (allowed: at most {most})"
