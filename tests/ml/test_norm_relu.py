"""BatchNorm, what is added and ReLU as one against torch's own modules, called one by one."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from networks import build_network
from norms import assert_exact, calls, drawn, norm_of, outcome
from samples import random_images
from torch import Tensor, nn

from dsdctl.ml.device import precision
from dsdctl.ml.entropy import ActivationCounter
from dsdctl.ml.kernels.relu_norm import norm_relu
from dsdctl.system.devices import KERNELS_VARIABLE

SHAPES = [(2, 16, 4, 4), (3, 48, 5, 2), (5, 128, 2, 2), (70, 32, 1, 1), (2, 80, 5, 7)]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
ADDING = pytest.mark.parametrize("adds", [False, True], ids=["alone", "adding"])


class NormRelu(nn.Module):
    """The two modules, trained as one where that can be done."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm_of(channels)
        self.relu = nn.ReLU()

    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        return norm_relu(self.norm, self.relu, maps, added)


class OneByOne(NormRelu):
    def forward(self, maps: Tensor, added: Tensor | None = None) -> Tensor:
        out = self.norm(maps)
        return self.relu(out if added is None else out + added)  # type: ignore[no-any-return]


def one_by_one(network: NormRelu) -> OneByOne:
    plainly = OneByOne(network.norm.num_features)
    plainly.load_state_dict(network.state_dict())
    return plainly.to(network.norm.weight.dtype).train(network.training)


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, adds: bool
) -> list[Tensor]:
    return [drawn(shape, dtype, seed) for seed in ([4, 6] if adds else [4])]


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.usefixtures("instructions")
@DTYPES
@ADDING
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_is_that_of_float64_but_for_rounding(
    shape: tuple[int, ...], adds: bool, dtype: torch.dtype
) -> None:
    network, maps = NormRelu(shape[1]), inputs(shape, dtype, adds=adds)
    ours = outcome(network, *maps)
    assert calls(ours["outputs"]) == 1
    assert {ours[name].dtype for name in ours if name in ("outputs", "maps", "added")} == {dtype}
    assert ours["norm.num_batches_tracked"] == 1
    assert_exact(ours, one_by_one(network), *maps, margin=True)


@pytest.mark.usefixtures("instructions")
@ADDING
def test_constant_and_dead_channels(adds: bool) -> None:
    network, maps = NormRelu(16), inputs((4, 16, 4, 4), adds=adds)
    maps[0][:, 0], maps[0][:, 1] = 0.5, -2
    with torch.no_grad():
        network.norm.bias[2:4] = torch.tensor([-100.0, 100.0])
    ours = outcome(network, *maps)
    assert calls(ours["outputs"]) == 1
    assert not ours["outputs"][:, 2].any() and not ours["maps"][:, 2].any()
    assert bool((ours["outputs"][:, 3] > 0).all())
    assert_exact(ours, one_by_one(network), *maps, margin=True)


@pytest.mark.usefixtures("instructions")
@ADDING
@DTYPES
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_goes_on_as_by_torch(
    value: float, dtype: torch.dtype, adds: bool
) -> None:
    network, maps = NormRelu(16), inputs((2, 16, 4, 4), dtype, adds=adds)
    maps[0][1, 5, 1, 3] = value
    ours = outcome(network, *maps)
    assert calls(ours["outputs"]) == 1
    assert bool(ours["outputs"][:, 5].isnan().all())
    assert_exact(ours, one_by_one(network), *maps)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_neither_does_an_addend_stop_at_the_relu(value: float) -> None:
    network, maps = NormRelu(16), inputs((2, 16, 4, 4), adds=True)
    maps[1][1, 5, 1, 3] = value
    ours, theirs = outcome(network, *maps), outcome(one_by_one(network), *maps)
    assert calls(ours["outputs"]) == 1
    for name in ("outputs", "added"):
        one, other = (found[name][1, 5, 1, 3] for found in (ours, theirs))
        assert one == other or (one.isnan() and other.isnan())


@pytest.mark.usefixtures("instructions")
@ADDING
def test_a_gradient_that_is_nan_goes_on(adds: bool) -> None:
    network, maps = NormRelu(16), inputs((2, 16, 4, 4), adds=adds)
    maps = [each.requires_grad_() for each in maps]
    outputs = network(*maps)
    place = tuple((outputs[:, 5] > 0).nonzero()[0].tolist())
    upstream = torch.ones_like(outputs)
    upstream[place[0], 5, place[1], place[2]] = math.nan
    wanted = [network.norm.weight, network.norm.bias, *maps]
    of_weight, of_bias, of_maps, *of_added = torch.autograd.grad(outputs, wanted, upstream)
    others = torch.arange(16) != 5
    for gradient in (of_weight, of_bias):
        assert torch.equal(gradient.isfinite(), others)
    assert torch.equal(of_maps.isnan().any(2).any(2), ~others.expand(2, 16))
    for gradient in of_added:
        assert int(gradient.isnan().count_nonzero()) == 1


# What is left to torch's modules


def frozen() -> NormRelu:
    network = NormRelu(16)
    network.norm.eval()
    return network


def changed(**options: object) -> NormRelu:
    network = NormRelu(16)
    network.norm = nn.BatchNorm2d(16, **options)  # type: ignore[arg-type]
    return network


MAPS, ADDEND = inputs((2, 16, 4, 4), adds=True)
APART: dict[str, tuple[Callable[[], NormRelu], list[Tensor]]] = {
    "not channels-last": (lambda: NormRelu(16), [MAPS.contiguous()]),
    "an addend that is not channels-last": (lambda: NormRelu(16), [MAPS, ADDEND.contiguous()]),
    "an addend of another type": (lambda: NormRelu(16), [MAPS, ADDEND.bfloat16()]),
    "an addend that is broadcast": (lambda: NormRelu(16), [MAPS, ADDEND[:1]]),
    "float64": (lambda: NormRelu(16).double(), [MAPS.double(), ADDEND.double()]),
    "24 channels": (lambda: NormRelu(24), [drawn((2, 24, 4, 4))]),
    "statistics not updated": (frozen, [MAPS]),
    "in eval mode": (lambda: NormRelu(16).eval(), [MAPS, ADDEND]),
}


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("case", APART)
def test_what_the_kernels_cannot_do_is_torchs_bit_for_bit(case: str) -> None:
    make, maps = APART[case]
    network = make()
    plainly = OneByOne(network.norm.num_features)
    plainly.norm = copy.deepcopy(network.norm)
    ours = outcome(network, *maps)
    assert calls(ours["outputs"]) == 0
    assert_same_bits(ours, outcome(plainly, *maps))


def test_so_is_everything_where_they_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "off")
    network = NormRelu(16)
    assert_same_bits(outcome(network, MAPS, ADDEND), outcome(one_by_one(network), MAPS, ADDEND))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("part", ["norm", "relu"])
def test_a_module_with_a_hook_is_called(part: str) -> None:
    network, seen = NormRelu(16), []
    plainly = one_by_one(network)
    network.get_submodule(part).register_forward_hook(lambda *called: seen.append(called))
    ours = outcome(network, MAPS, ADDEND)
    assert len(seen) == 1
    assert_same_bits(ours, outcome(plainly, MAPS, ADDEND))


@pytest.mark.usefixtures("compiled")
def test_the_entropy_of_a_resnet_is_counted_in_train_mode_too() -> None:
    """Each ReLU that is watched is called, and what it sees is what it saw."""
    network = build_network("resnet18", 3, 10, seed=0)
    images = random_images(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    seen: list[Tensor] = []
    plainly = copy.deepcopy(network)
    for module in plainly.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    plainly(images)
    with ActivationCounter(network) as counter:
        network(images)
    assert len(seen) == 17
    for counts, inputs in zip(counter.counts.values(), seen, strict=True):
        assert torch.equal(counts, (inputs > 0).sum(0))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_all_of_a_resnets_relus_come_with_their_norms(name: str) -> None:
    network = build_network("resnet18", 3, 10, seed=0)
    images = random_images(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with precision(name, torch.device("cpu")):
        assert calls(network(images)) == 17
