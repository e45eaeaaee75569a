"""The base class of the models of dsdctl's networks. Nothing here imports torch."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from dsdctl.spec.fields import Model


@dataclass(frozen=True)
class Task:
    """What a network is for: the channels, height and width of its images, and the classes."""

    channels: int
    height: int
    width: int
    classes: int


class BuiltInNetwork(Model):
    """Base of their models: a spec's keys, and closed forms that `validate` and `plan` need.

    `MODULE` is the class that builds it, `MODULE:CLASS` below `dsdctl.ml.networks`, which gets the
    spec's keys. With `ONE_SIZE` its parameters depend on the size of the images, and the class gets
    an `image_size` (H, W) too. A network with `BATCHNORM` cannot be trained on a single image; one
    with `LAYERNORM` cannot be pruned by SynFlow.
    """

    MODULE: ClassVar[str]
    ONE_SIZE: ClassVar[bool] = False
    BATCHNORM: ClassVar[bool] = True
    LAYERNORM: ClassVar[bool] = False

    arch: str

    @abstractmethod
    def layer_weights(self, task: Task) -> dict[str, int]:
        """The number of weights, without biases, of each Conv2d and Linear layer by module name, in
        the network's order."""

    @property
    def smallest_side(self) -> int:
        """The smallest image side, in pixels, that the network can process."""
        return 1

    def images_problem(self, height: int, width: int, shown: int) -> tuple[str, str] | None:
        """Why it cannot process images of this size, as the network's key in the spec and a reason;
        None if it can.

        `shown` is the shortest side in training or measuring, which may crop the centre.
        """
        if self.ONE_SIZE and shown != min(height, width):
            reason = "takes images of one size (allowed: dataset.size without test_crop)"
            return "arch", f"{self.arch} {reason}"
        if shown < self.smallest_side:
            return self.too_small(shown)
        return None

    def too_small(self, side: int) -> tuple[str, str]:
        """The problem of images that are too small, as a key and a reason."""
        reason = f"leaves nothing of images of {side} pixels (allowed: {self.smallest_side})"
        return "arch", f"{self.arch} {reason}"

    def arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """Keyword arguments of the class that builds it; `image_size` is (H, W)."""
        size = {"image_size": image_size} if self.ONE_SIZE else {}
        return self.model_dump(exclude={"arch"}) | size
