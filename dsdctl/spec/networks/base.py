"""What every network that comes with dsdctl says of itself. Nothing here imports torch."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from dsdctl.spec.fields import Model


@dataclass(frozen=True)
class Task:
    """What a network is for: images of so many channels and pixels, and how many classes."""

    channels: int
    height: int
    width: int
    classes: int


class BuiltInNetwork(Model):
    """Base of their models: a spec's keys, and in closed form what `validate` and `plan` must know.

    `MODULE` is the class that builds it, `MODULE:CLASS` below `dsdctl.ml.networks`, which is given
    the spec's keys. With `ONE_SIZE` its parameters depend on the size of the images, and it is
    given an `image_size` (H, W) too. `BATCHNORM` says that it cannot be trained on a single image,
    `LAYERNORM` that no sum of weights flows through it, which SynFlow needs.
    """

    MODULE: ClassVar[str]
    ONE_SIZE: ClassVar[bool] = False
    BATCHNORM: ClassVar[bool] = True
    LAYERNORM: ClassVar[bool] = False

    arch: str

    @abstractmethod
    def layer_weights(self, task: Task) -> dict[str, int]:
        """Weights of each Conv2d and Linear layer (no biases) by its module's name, in the order of
        the network."""

    @property
    def smallest_side(self) -> int:
        """The smallest image side, in pixels, that the network leaves anything of."""
        return 1

    def images_problem(self, height: int, width: int, shown: int) -> tuple[str, str] | None:
        """Why it takes no images of this size, as a key of the spec and a reason; None if it does.

        `shown` is the shortest side that is trained or measured on: a test may cut the centre out.
        """
        if self.ONE_SIZE and shown != min(height, width):
            reason = "takes images of one size (allowed: dataset.size without test_crop)"
            return "arch", f"{self.arch} {reason}"
        if shown < self.smallest_side:
            return self.too_small(shown)
        return None

    def too_small(self, side: int) -> tuple[str, str]:
        """The problem of images of which nothing is left: a key and a reason."""
        reason = f"leaves nothing of images of {side} pixels (allowed: {self.smallest_side})"
        return "arch", f"{self.arch} {reason}"

    def arguments(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """What the class that builds it is given by name; `image_size` is (H, W)."""
        size = {"image_size": image_size} if self.ONE_SIZE else {}
        return self.model_dump(exclude={"arch"}) | size
