"""ReLU, BatchNorm and pooling as one against torch's own modules, called one by one."""

import copy
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from norms import assert_exact, calls, drawn, norm_of, outcome
from samples import random_images
from torch import Tensor, nn

from dsdctl.ml.device import precision
from dsdctl.ml.kernels.relu_norm import FusedSequential
from dsdctl.system.devices import KERNELS_VARIABLE

SHAPES = [(2, 16, 4, 4), (3, 48, 6, 2), (5, 32, 2, 2), (70, 16, 1, 1), (2, 32, 5, 4), (1, 16, 4, 7)]
POOL = nn.MaxPool2d(2)
CASES = [(shape, ()) for shape in SHAPES] + [(shape, (POOL,)) for shape in SHAPES if shape[2] > 1]
POOLED = pytest.mark.parametrize("further", [(), (POOL,)], ids=["alone", "pooled"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def modules(channels: int, *further: nn.Module) -> list[nn.Module]:
    """ReLU, a BatchNorm and what comes after."""
    return [nn.ReLU(), norm_of(channels), *copy.deepcopy(further)]


def assert_same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.usefixtures("instructions")
@DTYPES
@pytest.mark.parametrize(("shape", "further"), CASES, ids=str)
def test_a_step_is_that_of_float64_but_for_rounding(
    shape: tuple[int, ...], further: tuple[nn.Module, ...], dtype: torch.dtype
) -> None:
    network, maps = FusedSequential(*modules(shape[1], *further)), drawn(shape, dtype)
    with precision("bf16" if dtype == torch.bfloat16 else "fp32", torch.device("cpu")):
        ours = outcome(network, maps)
    assert calls(ours["outputs"]) == 1
    assert ours["outputs"].dtype == ours["maps"].dtype == dtype
    assert ours["1.weight"].dtype == torch.float32
    assert ours["1.num_batches_tracked"] == 1
    assert_exact(ours, network, maps)


@pytest.mark.usefixtures("instructions")
@POOLED
def test_statistics_hold_where_a_mean_is_far_above_the_deviation(
    further: tuple[nn.Module, ...],
) -> None:
    network = FusedSequential(*modules(16, *further))
    maps = drawn((8, 16, 8, 8)) / 64 + 100
    ours = outcome(network, maps)
    assert calls(ours["outputs"]) == 1
    assert_exact(ours, network, maps)


@pytest.mark.usefixtures("instructions")
@POOLED
def test_constant_and_dead_channels(further: tuple[nn.Module, ...]) -> None:
    network, maps = FusedSequential(*modules(16, *further)), drawn((4, 16, 4, 4))
    maps[:, 0], maps[:, 1], maps[:, 2] = 0.5, -1, 0
    ours = outcome(network, maps)
    assert calls(ours["outputs"]) == 1
    assert not ours["maps"][:, 1:3].any()
    assert_exact(ours, network, maps)


@pytest.mark.usefixtures("instructions")
@DTYPES
def test_the_first_of_equal_pixels_is_chosen(dtype: torch.dtype) -> None:
    network = FusedSequential(*modules(16, POOL))
    maps = drawn((2, 16, 4, 4), dtype).repeat_interleave(2, 2).repeat_interleave(2, 3)
    maps = maps.contiguous(memory_format=torch.channels_last)
    ours = outcome(network, maps)
    assert calls(ours["outputs"]) == 1
    windows = ours["maps"].unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert torch.equal(windows[..., 1], windows[..., 3])
    assert (windows[..., 0] != windows[..., 1]).any()
    assert_exact(ours, network, maps)


@pytest.mark.usefixtures("instructions")
@POOLED
@DTYPES
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (1, 3), (3, 2)])
def test_what_is_not_finite_goes_on_as_by_torch(
    place: tuple[int, int], value: float, dtype: torch.dtype, further: tuple[nn.Module, ...]
) -> None:
    network, maps = FusedSequential(*modules(16, *further)), drawn((2, 16, 4, 4), dtype)
    maps[(1, 5, *place)] = value
    ours = outcome(network, maps)
    assert calls(ours["outputs"]) == 1
    # Minus infinity is nothing after the ReLU; of the others all of the channel becomes NaN.
    assert bool(ours["outputs"][:, 5].isnan().all()) == (value != -math.inf)
    assert_exact(ours, network, maps)


@pytest.mark.usefixtures("instructions")
@POOLED
def test_a_gradient_that_is_nan_goes_on(further: tuple[nn.Module, ...]) -> None:
    network, maps = FusedSequential(*modules(16, *further)), drawn((2, 16, 4, 4)).requires_grad_()
    outputs = network(maps)
    upstream = torch.ones_like(outputs)
    upstream[1, 5, 1, 0] = math.nan
    of_maps, of_weight, of_bias = torch.autograd.grad(
        outputs, [maps, network[1].weight, network[1].bias], upstream
    )
    others = torch.arange(16) != 5
    for gradient in (of_weight, of_bias):
        assert torch.equal(gradient.isfinite(), others)
    assert torch.equal(of_maps.isnan().any(2).any(2), ~others.expand(2, 16))


@pytest.mark.usefixtures("instructions")
def test_the_same_bits_twice() -> None:
    network = FusedSequential(*modules(48, POOL))
    maps = random_images(7, 48, 6, 6).contiguous(memory_format=torch.channels_last)
    assert_same_bits(outcome(network, maps), outcome(network, maps))


@pytest.mark.usefixtures("instructions")
def test_modules_are_fused_wherever_they_stand() -> None:
    first, second = modules(16, POOL), modules(16)
    layers = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
    network = FusedSequential(layers[0], *first, layers[1], *second, *second)
    parts = (FusedSequential(*part) for part in (first, second, second))
    apart = nn.Sequential(layers[0], next(parts), layers[1], *parts)
    found = [outcome(each, drawn((3, 16, 4, 4))) for each in (network, apart)]
    for ours, theirs in zip(*(each.values() for each in found), strict=True):
        assert torch.equal(ours, theirs)
    assert calls(found[0]["outputs"]) == 3


# What is left to torch's modules


def frozen() -> list[nn.Module]:
    relu, norm = modules(16)
    return [relu, norm.eval()]


APART: dict[str, tuple[Callable[[], list[nn.Module]], Tensor]] = {
    "not channels-last": (lambda: modules(16, POOL), drawn((2, 16, 4, 4)).contiguous()),
    "float64": (lambda: [m.double() for m in modules(16, POOL)], drawn((2, 16, 4, 4)).double()),
    "24 channels": (lambda: modules(24, POOL), drawn((2, 24, 4, 4))),
    "statistics not updated": (frozen, drawn((2, 16, 4, 4))),
    "a mean of all batches": (
        lambda: [nn.ReLU(), nn.BatchNorm2d(16, momentum=None)],
        drawn((2, 16, 4, 4)),
    ),
    "no statistics": (
        lambda: [nn.ReLU(), nn.BatchNorm2d(16, track_running_stats=False)],
        drawn((2, 16, 4, 4)),
    ),
    "no weights": (
        lambda: [nn.ReLU(), nn.BatchNorm2d(16, affine=False)],
        drawn((2, 16, 4, 4)),
    ),
    "another order": (lambda: modules(16)[::-1], drawn((2, 16, 4, 4))),
}


@pytest.mark.parametrize("case", APART)
def test_what_the_kernels_cannot_do_is_torchs_bit_for_bit(case: str) -> None:
    make, maps = APART[case]
    network = nn.Sequential(*make())
    ours = outcome(FusedSequential(*network), maps)
    assert calls(ours["outputs"]) == 0
    assert_same_bits(ours, outcome(network, maps))


def test_so_is_everything_where_they_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "off")
    network, maps = nn.Sequential(*modules(16, POOL)), drawn((2, 16, 4, 4))
    assert_same_bits(outcome(FusedSequential(*network), maps), outcome(network, maps))


def test_and_with_several_threads() -> None:
    network, maps = nn.Sequential(*modules(16, POOL)), drawn((2, 16, 4, 4))
    torch.set_num_threads(2)
    try:
        ours = outcome(FusedSequential(*network), maps)
        assert calls(ours["outputs"]) == 0
        assert_same_bits(ours, outcome(network, maps))
    finally:
        torch.set_num_threads(1)


def test_and_in_eval_mode() -> None:
    network, maps = nn.Sequential(*modules(16, POOL)).eval(), drawn((2, 16, 4, 4))
    ours = outcome(FusedSequential(*network).eval(), maps)
    assert calls(ours["outputs"]) == 0
    assert_same_bits(ours, outcome(network, maps))


def test_a_trace_shows_the_modules() -> None:
    network, maps = FusedSequential(*modules(16, POOL)), drawn((2, 16, 4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of its own future
        trace = torch.jit.trace(network, maps, check_trace=False)
    assert isinstance(trace, torch.jit.ScriptModule)
    kinds = {node.kind() for node in trace.inlined_graph.nodes()}
    assert {"aten::relu", "aten::batch_norm", "aten::max_pool2d"} <= kinds


HOOKS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)


@pytest.mark.usefixtures("instructions")
@pytest.mark.parametrize("register", HOOKS)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_module_with_a_hook_is_called(place: int, register: str) -> None:
    network, maps, seen = FusedSequential(*modules(16, POOL)), drawn((2, 16, 4, 4)), []
    getattr(network[place], register)(lambda module, *_: seen.append(type(module)))
    ours = outcome(network, maps)
    assert seen == [type(network[place])]
    assert calls(ours["outputs"]) == (1 if place == 2 else 0)
    assert_exact(ours, FusedSequential(*modules(16, POOL)), maps)


@POOLED
def test_a_single_value_a_channel_is_refused(further: tuple[nn.Module, ...]) -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        FusedSequential(*modules(16, *further))(drawn((1, 16, 1, 1)))


@pytest.mark.usefixtures("instructions")
def test_a_second_derivative_is_refused() -> None:
    network, maps = FusedSequential(*modules(16)), drawn((2, 16, 4, 4)).requires_grad_()
    (gradient,) = torch.autograd.grad(network(maps).square().sum(), maps, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
