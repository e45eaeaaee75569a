"""VGG-16 for small images."""

from typing import ClassVar, Literal

from pydantic import Field

from dsdctl.spec.networks.base import BuiltInNetwork, Task

BLOCKS = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))
"""For each block, its number of convolutions and its channels as a multiple of the width."""


class VGG16(BuiltInNetwork):
    """VGG-16 for small images as in OpenLTH and He et al. (2022): 13 conv3x3 -> BatchNorm -> ReLU
    in five blocks with a 2x2 max-pool between them, the mean over each map, one Linear."""

    MODULE: ClassVar = "vgg16:VGG16"

    arch: Literal["vgg16"]
    width: int = Field(64, ge=1, le=4096, description="channels of the first block; 64 is VGG-16")
    weights_init: Literal["kaiming-normal", "default"] = Field(
        "kaiming-normal", description="of convolutions and Linear: over the inputs, or PyTorch's"
    )
    batchnorm_init: Literal["uniform", "ones"] = Field(
        "uniform", description="of BatchNorm's scales: from [0, 1), or PyTorch's"
    )

    def layer_weights(self, task: Task) -> dict[str, int]:
        """Weights by layer; none depends on the size of the images."""
        weights, channels, place = {}, task.channels, 0
        for convolutions, factor in BLOCKS:
            for _ in range(convolutions):
                outputs = self.width * factor
                weights[f"features.{place}"] = 9 * channels * outputs
                channels = outputs
                place += 3  # conv, BatchNorm, ReLU
            place += 1  # a max-pool, except after the last block
        return {**weights, "classifier": channels * task.classes}

    @property
    def smallest_side(self) -> int:
        """The max-pool between any two blocks halves the images."""
        return int(2 ** (len(BLOCKS) - 1))

    def too_small(self, side: int) -> tuple[str, str]:
        """The problem is with `arch`, since only larger images would help."""
        reason = f"halves images of {side} pixels to nothing (allowed: {self.smallest_side})"
        return "arch", reason
