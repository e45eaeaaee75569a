"""The networks that a spec may name, and their sizes. Nothing here imports torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    model_validator,
)

from dsdctl.spec.fields import OWN_PATTERN, Model, Name, PathText


class VGGLike(Model):
    """VGG-like: `depth` blocks of two conv3x3, `width` channels in the first, doubling."""

    arch: Literal["vgg-like"]
    depth: int = Field(5, ge=1, le=8)
    width: int = Field(32, ge=1, le=4096)
    pool: int = Field(7, ge=1, le=32, description="side of the adaptive average pool")


class ResNet18(Model):
    """ResNet-18 with a 3x3 stride-1 stem and the max-pool kept, as in the paper."""

    arch: Literal["resnet18"]


class TorchvisionResNet(Model):
    """torchvision's ResNet-18 or ResNet-50, for large images: the stem is a 7x7 stride-2 one."""

    arch: Literal["resnet18-imagenet", "resnet50-imagenet"]


class MLP(Model):
    """Fully connected layers with ReLUs between them; LeNet-300-100 unless `hidden` is given."""

    arch: Literal["mlp"]
    hidden: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (300, 100), min_length=1, max_length=32, description="units of each hidden layer"
    )


class ViT(Model):
    """A small vision transformer with GELUs, without dropout."""

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


class OwnNetwork(Model):
    """A network of your own: NAME(in_channels, classes, **options) gives an nn.Module, which turns
    images (B, C, H, W) into logits (B, K)."""

    arch: Annotated[str, Field(max_length=4096, pattern=OWN_PATTERN)] = Field(
        description="`FILE.py:NAME`, relative to this file, or `PACKAGE.MODULE:NAME` as installed"
    )
    options: dict[str, JsonValue] = Field({}, description="keyword arguments of NAME")
    sources: tuple[PathText, ...] = Field(
        (),
        max_length=100,
        description="further Python files beside FILE that belong to it; those that it or they "
        "import are found",
    )
    version: Name | None = Field(
        None,
        description="stands in keys for what the code holds: results stay while it stays, "
        "whatever is edited",
    )

    @property
    def place(self) -> str:
        """The file, or the module of a package."""
        return self.arch.rpartition(":")[0]

    @property
    def name(self) -> str:
        """What makes the network there."""
        return self.arch.rpartition(":")[2]


class CodeNetwork(Model):
    """A network of a user's own as it is identified: by what its code holds, never by where.

    `code` is the sha256 of its sources, or None where a `version` stands for them.
    """

    arch: Literal["own"]
    name: str
    code: str | None
    version: str | None
    options: dict[str, JsonValue]


BuiltIn = Annotated[VGGLike | ResNet18 | TorchvisionResNet | MLP | ViT, Field(discriminator="arch")]

Network = Annotated[
    VGGLike | ResNet18 | TorchvisionResNet | MLP | ViT | CodeNetwork, Field(discriminator="arch")
]
"""A network as work is identified by it."""


BUILT_IN, OWN = "<built-in>", "<own>"
"""The tags of the networks that come with dsdctl, and of a user's own."""


def whose(value: Any) -> str:
    """The tag of a network in a spec: one of a user's own has a colon in its `arch`."""
    if isinstance(value, BaseModel):
        value = {"arch": getattr(value, "arch", None)}
    arch = value.get("arch") if isinstance(value, Mapping) else None
    return OWN if isinstance(arch, str) and ":" in arch else BUILT_IN


Student = Annotated[
    Annotated[BuiltIn, Tag(BUILT_IN)] | Annotated[OwnNetwork, Tag(OWN)],
    Discriminator(whose),
]
"""A network as a spec names it."""


def network_name(network: Network) -> str:
    """What people call a network."""
    return network.name if isinstance(network, CodeNetwork) else network.arch
