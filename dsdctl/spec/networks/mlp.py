"""Fully connected networks."""

import itertools
import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dsdctl.spec.networks.base import BuiltInNetwork, Task


class MLP(BuiltInNetwork):
    """Fully connected layers with ReLUs between them; LeNet-300-100 unless `hidden` is given."""

    MODULE: ClassVar = "mlp:MLP"
    ONE_SIZE: ClassVar = True
    BATCHNORM: ClassVar = False

    arch: Literal["mlp"]
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (300, 100), min_length=1, max_length=32, description="units of each hidden layer"
    )

    def layer_weights(self, task: Task) -> dict[str, int]:
        """Weights by layer; between two layers is a ReLU."""
        pixels = task.channels * task.height * task.width
        *hidden, last = itertools.pairwise((pixels, *self.hidden, task.classes))
        weights = {f"hidden.{2 * k}": math.prod(sides) for k, sides in enumerate(hidden)}
        return {**weights, "classifier": math.prod(last)}
