"""A small vision transformer, as in the authors' study of sparse double descent in ViTs.

Shapes: B images, C channels, H x W pixels, T tokens (one per patch and the class token), D features
per token, K classes. There is no dropout, whose masks would come from global random state.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsdctl.ml.networks.initialization import default_init
from dsdctl.ml.networks.network import Network


class Attention(nn.Module):
    """Self-attention with `heads` heads of D / heads features each.

    Written as matrix products, which are deterministic on GPUs and counted by fvcore.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # each (B, heads, T, D / heads)
        scores = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        mixed = scores.softmax(dim=3) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: attention, then an MLP with a GELU, each with a residual sum."""

    def __init__(self, dim: int, heads: int, mlp_dim: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, mlp_dim)
        self.gelu = nn.GELU()
        self.linear2 = nn.Linear(mlp_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.linear2(self.gelu(self.linear1(self.norm2(tokens))))  # type: ignore[no-any-return]


class ViT(Network):
    """Vision transformer over `patch` x `patch` patches, classified by its class token.

    Linear layers have PyTorch's default initialization; the class token and position embedding are
    drawn from N(0, 1). `image_size` is (H, W) in pixels.
    """

    def __init__(  # noqa: PLR0913 - its options are those of a spec
        self,
        in_channels: int,
        classes: int,
        *,
        image_size: tuple[int, int],
        patch: int = 4,
        dim: int = 512,
        depth: int = 6,
        heads: int = 8,
        mlp_dim: int = 512,
    ):
        super().__init__()
        self.patch = patch
        height, width = image_size
        tokens = (height // patch) * (width // patch) + 1
        self.embedding = nn.Linear(in_channels * patch**2, dim)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, tokens, dim))
        self.blocks = nn.Sequential(*(EncoderBlock(dim, heads, mlp_dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K)."""
        patches = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        class_tokens = self.class_token.expand(images.shape[0], -1, -1)
        tokens = torch.cat([class_tokens, self.embedding(patches)], dim=1) + self.positions
        return self.classifier(self.norm(self.blocks(tokens)[:, 0]))  # type: ignore[no-any-return]

    def initialize(self, stream: torch.Generator) -> None:
        """Draw all weights from `stream`, the Linear layers in module order."""
        nn.init.normal_(self.class_token, generator=stream)
        nn.init.normal_(self.positions, generator=stream)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                default_init(module, stream)
