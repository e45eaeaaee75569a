"""The networks that a spec may name. Nothing here imports torch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    JsonValue,
    Tag,
)

from dsdctl.spec.fields import OWN_PATTERN, Model, Name, PathText
from dsdctl.spec.networks.mlp import MLP
from dsdctl.spec.networks.resnet import ResNet18, TorchvisionResNet
from dsdctl.spec.networks.vgg import VGGLike
from dsdctl.spec.networks.vgg16 import VGG16
from dsdctl.spec.networks.vit import ViT


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
        description="more Python files beside FILE that belong to it; those that it or they "
        "import are found",
    )
    version: Name | None = Field(
        None,
        description="replaces the code's hash in keys: results stay valid while it stays, even "
        "if the code is edited",
    )

    @property
    def place(self) -> str:
        """The file, or the module of a package."""
        return self.arch.rpartition(":")[0]

    @property
    def name(self) -> str:
        """The callable there that returns the network."""
        return self.arch.rpartition(":")[2]


class CodeNetwork(Model):
    """A user's own network as identities hash it: by the content of its code, not its location.

    `code` is the sha256 of its sources, or None if a `version` stands for them.
    """

    arch: Literal["own"]
    name: str
    code: str | None
    version: str | None
    options: dict[str, JsonValue]


AnyBuiltIn = VGGLike | VGG16 | ResNet18 | TorchvisionResNet | MLP | ViT
"""The networks that come with dsdctl. Those listed here can be students and teachers in specs."""

BuiltIn = Annotated[AnyBuiltIn, Field(discriminator="arch")]

Network = Annotated[AnyBuiltIn | CodeNetwork, Field(discriminator="arch")]
"""A network as identities hash it."""


BUILT_IN, OWN = "<built-in>", "<own>"
"""The tags of the networks that come with dsdctl, and of a user's own."""


def whose(value: Any) -> str:
    """The tag of a network in a spec: the `arch` of a user's own has a colon."""
    if isinstance(value, BaseModel):
        value = {"arch": getattr(value, "arch", None)}
    arch = value.get("arch") if isinstance(value, Mapping) else None
    return OWN if isinstance(arch, str) and ":" in arch else BUILT_IN


Student = Annotated[
    Annotated[BuiltIn, Tag(BUILT_IN)] | Annotated[OwnNetwork, Tag(OWN)],
    Discriminator(whose),
]
"""A network as specs name it."""


def network_name(network: Network) -> str:
    """The name of a network for people."""
    return network.name if isinstance(network, CodeNetwork) else network.arch
