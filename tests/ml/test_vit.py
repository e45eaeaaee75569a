"""The vision transformer computes what PyTorch's own encoder layers compute."""

import pytest
import torch
from networks import build_network
from samples import in_float64, random_images
from torch import Tensor, nn

from dsdctl.ml.networks.vit import EncoderBlock, ViT


def encoder_layer_with_the_weights_of(block: EncoderBlock, dim: int, heads: int) -> nn.Module:
    theirs = nn.TransformerEncoderLayer(
        dim,
        heads,
        block.linear1.out_features,
        dropout=0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    )
    ours = block.state_dict()
    names = {
        "self_attn.in_proj_weight": ours["attention.qkv.weight"],
        "self_attn.in_proj_bias": torch.zeros(3 * dim),
        "self_attn.out_proj.weight": ours["attention.out.weight"],
        "self_attn.out_proj.bias": ours["attention.out.bias"],
    }
    same = ("norm1", "norm2", "linear1", "linear2")
    names |= {name: tensor for name, tensor in ours.items() if name.startswith(same)}
    theirs.load_state_dict(names)
    return theirs.double()


def patch_by_patch(images: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, patches, C * side * side), row by row."""
    rows = [
        images[:, :, top : top + side, left : left + side].flatten(1)
        for top in range(0, images.shape[2], side)
        for left in range(0, images.shape[3], side)
    ]
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_is_torchs_pre_norm_encoder_over_patches_and_a_class_token(training: bool) -> None:
    dim, heads = 12, 3
    network = build_network(
        "vit", 2, 5, seed=0, image_size=(8, 12), patch=4, dim=dim, depth=2, heads=heads, mlp_dim=7
    ).train(training)
    assert isinstance(network, ViT)
    in_float64(network)
    images = random_images(3, 2, 8, 12).double()
    tokens = network.embedding(patch_by_patch(images, 4))
    tokens = torch.cat([network.class_token.repeat(3, 1, 1), tokens], dim=1) + network.positions
    for block in network.blocks:
        assert isinstance(block, EncoderBlock)
        tokens = encoder_layer_with_the_weights_of(block, dim, heads).train(training)(tokens)
    expected = network.classifier(network.norm(tokens[:, 0]))
    torch.testing.assert_close(network(images), expected)


def test_the_default_is_the_authors() -> None:
    """Patch 4, dim 512, depth 6, heads 8, MLP 512 on 32x32 images of ten classes."""
    network = build_network("vit", 3, 10, seed=0, image_size=(32, 32))
    block = 2 * 2 * 512 + 3 * 512**2 + (512**2 + 512) + 2 * (512**2 + 512)
    others = (48 * 512 + 512) + 512 + 65 * 512 + 2 * 512 + (512 * 10 + 10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 6 * block + others


def test_class_token_and_positions_are_drawn_from_a_normal() -> None:
    network = build_network("vit", 1, 4, seed=0, image_size=(32, 32), dim=64, depth=1)
    assert isinstance(network, ViT)
    positions = network.positions.detach()
    spread = 5 / positions.numel() ** 0.5  # five standard errors, and more
    assert float(positions.mean()) == pytest.approx(0, abs=spread)
    assert float(positions.std()) == pytest.approx(1, abs=spread)
    assert float((positions.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=spread)
    assert not torch.equal(network.class_token[0, 0], positions[0, 0])
