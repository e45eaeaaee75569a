import pytest
import torch

from dsdctl.ml.masks import count_nonzero, dense_masks, prunable_weights, prune_by_magnitude
from dsdctl.ml.models import build_network
from dsdctl.shapes import layer_weights, remaining_weights, smallest_side
from dsdctl.spec import ResNet18, VGGLike


@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 100)])
@pytest.mark.parametrize(
    "network",
    [
        VGGLike(arch="vgg-like"),
        VGGLike(arch="vgg-like", depth=1, width=5, pool=3),
        VGGLike(arch="vgg-like", depth=3, width=4, pool=1),
    ],
    ids=str,
)
def test_vgg_like_layer_weights_are_those_of_the_built_network(
    network: VGGLike, channels: int, classes: int
) -> None:
    options = network.model_dump(exclude={"arch"})
    built = build_network("vgg-like", channels, classes, seed=0, **options)
    expected = [weight.numel() for weight in prunable_weights(built).values()]
    assert layer_weights(network, channels, classes) == expected


@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 100)])
def test_resnet18_layer_weights_are_those_of_the_built_network(channels: int, classes: int) -> None:
    built = build_network("resnet18", channels, classes, seed=0)
    expected = [weight.numel() for weight in prunable_weights(built).values()]
    assert layer_weights(ResNet18(arch="resnet18"), channels, classes) == expected


def test_remaining_weights_are_rounded_level_by_level() -> None:
    assert remaining_weights(100, 0.2, 4) == [100, 80, 64, 51, 41]
    assert remaining_weights(2, 0.2, 2) == [2, 2, 2]
    assert remaining_weights(7, 0.5, 0) == [7]


@pytest.mark.parametrize("fraction", [0.2, 0.35, 0.9])
def test_remaining_weights_are_what_pruning_leaves(fraction: float) -> None:
    weights = {"w.weight": torch.randn(337, generator=torch.Generator().manual_seed(0))}
    masks, counts = dense_masks(weights), [337]
    for _ in range(8):
        masks = prune_by_magnitude(weights, masks, fraction)
        counts.append(count_nonzero(masks))
    assert remaining_weights(337, fraction, 8) == counts


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_vgg_like_runs_on_its_smallest_side_and_on_no_smaller_one(depth: int) -> None:
    network = VGGLike(arch="vgg-like", depth=depth, width=1)
    side = smallest_side(network)
    built = build_network("vgg-like", 1, 2, seed=0, depth=depth, width=1).eval()
    assert built(torch.zeros(1, 1, side, side)).shape == (1, 2)
    with pytest.raises(RuntimeError, match="too small"):
        built(torch.zeros(1, 1, side - 1, side - 1))


def test_resnet18_runs_on_a_single_pixel() -> None:
    assert smallest_side(ResNet18(arch="resnet18")) == 1
    built = build_network("resnet18", 1, 2, seed=0).eval()
    assert built(torch.zeros(1, 1, 1, 1)).shape == (1, 2)
