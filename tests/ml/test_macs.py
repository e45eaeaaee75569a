import copy

import pytest
import torch
from networks import build_network

from dsdctl.ml.macs import count_macs


@pytest.mark.parametrize(
    ("arch", "options", "macs"),
    [("vgg-like", {"depth": 5, "width": 32}, 67_831_296), ("resnet18", {}, 141_202_432)],
)
def test_the_papers_networks_have_the_papers_macs(
    arch: str, options: dict[str, int], macs: int
) -> None:
    assert count_macs(build_network(arch, 3, 10, seed=0, **options), 3, 32, 32)[0] == macs


@pytest.mark.parametrize(("depth", "width", "pool"), [(1, 3, 7), (2, 4, 2), (3, 2, 7)])
def test_a_vgg_like_has_the_macs_of_its_closed_form(depth: int, width: int, pool: int) -> None:
    side, channels, layers, others = 8, 2, [], 0
    for block in range(depth):
        out = width * 2**block
        layers += [side**2 * 9 * channels * out, side**2 * 9 * out * out]
        others += 2 * 5 * side**2 * out  # fvcore counts five for a unit of BatchNorm in train mode
        channels, side = out, side // 2
    others += side**2 * channels  # and one for an input of the average pool
    layers.append(channels * pool**2 * 6)

    network = build_network("vgg-like", 2, 6, seed=0, depth=depth, width=width, pool=pool)
    total, per_layer = count_macs(network, 2, 8, 8)[:2]

    assert list(per_layer.values()) == layers
    assert total == sum(layers) + others
    assert list(per_layer)[-1] == "classifier.weight"


def resnet_macs(side: int, depth: int, classes: int) -> tuple[list[int], int]:
    """Of torchvision's ResNet on RGB images of `side`: those of each layer, and of all BatchNorm
    units and the average pool."""
    blocks, bottleneck = {18: ((2, 2, 2, 2), False), 50: ((3, 4, 6, 3), True)}[depth]
    side //= 2
    layers, others, channels = [side**2 * 49 * 3 * 64], 5 * side**2 * 64, 64
    side //= 2
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        out = width * (4 if bottleneck else 1)
        for block in range(count):
            before, side = side, side // (2 if stage and not block else 1)
            if bottleneck:
                convolutions = [(1, channels, width, before), (3, width, width, side)]
                convolutions.append((1, width, out, side))
            else:
                convolutions = [(3, channels, width, side), (3, width, width, side)]
            if channels != out:
                convolutions.append((1, channels, out, side))
            layers += [s**2 * kernel**2 * i * o for kernel, i, o, s in convolutions]
            others += sum(5 * s**2 * o for _, _, o, s in convolutions)
            channels = out
    return [*layers, channels * classes], others + side**2 * channels


@pytest.mark.parametrize(("depth", "published"), [(18, 1_814_073_344), (50, 4_089_184_256)])
def test_torchvisions_resnets_have_the_macs_of_their_closed_form(
    depth: int, published: int
) -> None:
    network = build_network(f"resnet{depth}-imagenet", 3, 10, seed=0)
    layers, others = resnet_macs(64, depth, classes=10)
    total, per_layer = count_macs(network, 3, 64, 64)[:2]
    assert list(per_layer.values()) == layers
    assert total == sum(layers) + others
    assert sum(resnet_macs(224, depth, classes=1000)[0]) == published


def test_an_mlp_has_a_mac_a_weight() -> None:
    network = build_network("mlp", 1, 10, seed=0, image_size=(28, 28))
    total, per_layer = count_macs(network, 1, 28, 28)[:2]
    assert list(per_layer.values()) == [784 * 300, 300 * 100, 100 * 10]
    assert total == sum(per_layer.values())


@pytest.mark.parametrize(
    ("side", "options"),
    [(32, {}), (8, {"patch": 2, "dim": 12, "depth": 2, "heads": 3, "mlp_dim": 7})],
)
def test_a_vit_has_the_macs_of_its_closed_form(side: int, options: dict[str, int]) -> None:
    sizes = {"patch": 4, "dim": 512, "depth": 6, "heads": 8, "mlp_dim": 512, **options}
    patch, dim, depth, mlp = (sizes[name] for name in ("patch", "dim", "depth", "mlp_dim"))
    patches = (side // patch) ** 2
    tokens = patches + 1
    linear = [3 * tokens * dim**2, tokens * dim**2, tokens * dim * mlp, tokens * mlp * dim]
    layers = [patches * 3 * patch**2 * dim, *(depth * linear), dim * 10]
    attention = depth * 2 * tokens**2 * dim  # scores, and values mixed by them; of all heads
    norms = 5 * dim * (2 * depth * tokens + 1)  # fvcore counts five a unit of LayerNorm

    network = build_network("vit", 3, 10, seed=0, image_size=(side, side), **options)
    total, per_layer = count_macs(network, 3, side, side)[:2]

    assert list(per_layer.values()) == layers
    assert total == sum(layers) + attention + norms


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_counting_does_not_change_the_network_and_its_mode_does_not_change_the_count(
    training: bool,
) -> None:
    network = build_network("vgg-like", 1, 4, seed=0, depth=3, width=2).train(training)
    before = copy.deepcopy(network.state_dict())
    total = count_macs(network, 1, 8, 8).total
    assert total == count_macs(network.train(not training), 1, 8, 8)[0]
    assert all(module.training is not training for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(module._forward_hooks for module in network.modules())


def test_counting_leaves_the_callers_mode_alone() -> None:
    network = build_network("vgg-like", 1, 4, seed=0, depth=1, width=2).eval()
    count_macs(network, 1, 8, 8)
    assert not any(module.training for module in network.modules())
