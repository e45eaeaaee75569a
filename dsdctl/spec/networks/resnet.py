"""The paper's ResNet-18, and torchvision's ResNets for large images."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from dsdctl.spec.networks.base import BuiltInNetwork, Task


class ResNet18(BuiltInNetwork):
    """ResNet-18 with a 3x3 stride-1 stem and the max-pool kept, as in the paper."""

    MODULE: ClassVar = "resnet:ResNet18"

    arch: Literal["resnet18"]

    def layer_weights(self, task: Task) -> dict[str, int]:
        """Weights by layer; none depends on the size of the images."""
        weights = {"conv": 3**2 * task.channels * 64}
        for number, (inputs, outputs) in enumerate(_blocks((2, 2, 2, 2), 1)):
            weights |= _block(f"blocks.{number}", "shortcut.0", inputs, outputs, bottleneck=False)
        return {**weights, "classifier": 512 * task.classes}


class TorchvisionResNet(BuiltInNetwork):
    """torchvision's ResNet-18 or ResNet-50, for large images: the stem is a 7x7 stride-2 one."""

    MODULE: ClassVar = "torchvision_resnet:TorchvisionResNet"

    arch: Literal["resnet18-imagenet", "resnet50-imagenet"]

    @property
    def depth(self) -> int:
        """Layers with weights: 18, or 50."""
        return 50 if self.arch == "resnet50-imagenet" else 18

    def layer_weights(self, task: Task) -> dict[str, int]:
        """Weights by layer; none depends on the size of the images."""
        bottleneck = self.depth == 50
        counts = (3, 4, 6, 3) if bottleneck else (2, 2, 2, 2)
        expansion = 4 if bottleneck else 1
        names = [f"layer{stage}.{b}" for stage, count in enumerate(counts, 1) for b in range(count)]
        weights = {"conv1": 7**2 * task.channels * 64}
        for name, (inputs, outputs) in zip(names, _blocks(counts, expansion), strict=True):
            weights |= _block(name, "downsample.0", inputs, outputs, bottleneck=bottleneck)
        return {**weights, "fc": 512 * expansion * task.classes}

    def arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """With its depth, which the class takes instead of `arch`."""
        return {**super().arguments(image_size), "depth": self.depth}


def _blocks(counts: Sequence[int], expansion: int) -> Iterator[tuple[int, int]]:
    """Yield the input channels and the width of each block of a ResNet."""
    channels = 64
    for stage, count in enumerate(counts):
        width = 64 * 2**stage
        for _ in range(count):
            yield channels, width
            channels = expansion * width


def _block(
    name: str, shortcut: str, inputs: int, width: int, *, bottleneck: bool
) -> dict[str, int]:
    """Weights by layer of one block, with a projection if it changes the number of channels."""
    outputs = 4 * width if bottleneck else width
    sizes = [9 * inputs * width, 9 * width * width]
    if bottleneck:
        sizes = [inputs * width, 9 * width * width, width * outputs]
    weights = {f"{name}.conv{number}": size for number, size in enumerate(sizes, 1)}
    return weights if inputs == outputs else {**weights, f"{name}.{shortcut}": inputs * outputs}
