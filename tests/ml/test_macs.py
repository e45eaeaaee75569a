import copy

import pytest
import torch

from dsdctl.ml.macs import count_macs
from dsdctl.ml.models import build_network


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
    total, per_layer = count_macs(network, 2, 8, 8)

    assert list(per_layer.values()) == layers
    assert total == sum(layers) + others
    assert list(per_layer)[-1] == "classifier.weight"


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_counting_does_not_change_the_network_and_its_mode_does_not_change_the_count(
    training: bool,
) -> None:
    network = build_network("vgg-like", 1, 4, seed=0, depth=3, width=2).train(training)
    before = copy.deepcopy(network.state_dict())
    total, _ = count_macs(network, 1, 8, 8)
    assert total == count_macs(network.train(not training), 1, 8, 8)[0]
    assert all(module.training is not training for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(module._forward_hooks for module in network.modules())


def test_counting_leaves_the_callers_mode_alone() -> None:
    network = build_network("vgg-like", 1, 4, seed=0, depth=1, width=2).eval()
    count_macs(network, 1, 8, 8)
    assert not any(module.training for module in network.modules())
