"""BatchNorm beside ReLUs: a training step of it, the same in float64, and what rounding may do."""

import copy

import torch
from samples import UNIT
from torch import Tensor, nn

BLOCK = 64
"""Pixels that the kernels sum in float32; blocks are added up in float64."""


def norm_of(channels: int) -> nn.BatchNorm2d:
    """One with statistics, and weights of both signs."""
    stream = torch.Generator().manual_seed(3)
    norm = nn.BatchNorm2d(channels)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor, generator=stream)
    nn.init.uniform_(norm.running_var, 0.5, 2, generator=stream)
    return norm


def drawn(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 4) -> Tensor:
    """Channels-last maps in steps of a half: many are equal, no rounding changes an order, and
    sums of them and of their squares are exact."""
    stream = torch.Generator().manual_seed(seed)
    halves = torch.randint(-6, 7, shape, generator=stream)
    return (halves / 2).to(dtype).contiguous(memory_format=torch.channels_last)


def outcome(network: nn.Module, *maps: Tensor) -> dict[str, Tensor]:
    """A training step's outputs, gradients and statistics; the network is left as it was.

    `maps` are what is normalized and, if anything is, what is added.
    """
    network = copy.deepcopy(network)
    inputs = [each.detach().clone().requires_grad_() for each in maps]
    outputs = network(*inputs)
    upstream = drawn(tuple(outputs.shape), outputs.dtype, seed=5)
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(outputs, [*inputs, *parameters.values()], upstream)
    named = zip([*["maps", "added"][: len(maps)], *parameters], gradients, strict=True)
    return {"outputs": outputs, **dict(named), **dict(network.named_buffers())}


def calls(outputs: Tensor) -> int:
    """How many calls of the kernels made these outputs."""
    seen, nodes = set(), [outputs.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
    return sum(node.name().startswith(("_ReluNorm", "_NormRelu")) for node in seen)


def assert_exact(
    ours: dict[str, Tensor], network: nn.Module, *maps: Tensor, margin: bool = False
) -> None:
    """A step's outcome is that of float64 but for the roundings that it takes.

    With a `margin` no ReLU after the norm may be so close to zero that they decide.
    """
    doubled = copy.deepcopy(network).double()
    if isinstance(doubled, nn.Sequential):
        doubled = nn.Sequential(*doubled)
    (norm,) = (module for module in doubled.modules() if isinstance(module, nn.BatchNorm2d))
    before = copy.deepcopy(norm)
    seen: list[Tensor] = []

    def see(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(lambda gradient: seen.extend((inputs[0], output, gradient)))

    norm.register_forward_hook(see)
    doubles = [each.double() for each in maps]
    # The copy that is run shares the list.
    expected = outcome(doubled, *doubles)
    x, z, dz = (tensor.detach() for tensor in seen)
    added = doubles[1] if len(doubles) > 1 else torch.zeros(())
    bounds = _bounds(before, x, dz, added)
    if margin:
        assert bool(((z + added).abs() > bounds["outputs"]).all())
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        stored = UNIT[tensor.dtype] * expected[name].abs() if tensor.is_floating_point() else 0
        off = (tensor.detach().double() - expected[name].detach().double()).abs()
        bound = bounds[name.rpartition(".")[2]] + stored
        same = (tensor == expected[name]) | (tensor.isnan() & expected[name].isnan())
        good = (off <= bound) | same
        assert bool(good.all()), f"{name}: off by up to {float((off / bound).nan_to_num().max())}"


def _bounds(norm: nn.BatchNorm2d, x: Tensor, dz: Tensor, added: Tensor) -> dict[str, Tensor]:
    """By how much float32 may be off, channel by channel, before what is stored is rounded.

    The formulas are those of kernels_batch_norm.h, each of whose terms is off by a few roundings:
    of the mean, the inverse deviation (three), their products and sums; and by as many as there
    are numbers in a block where it is a sum of them. All are in float64.
    """
    sums, few, block = (0, 2, 3), 8 * UNIT[torch.float32], (BLOCK + 24) * UNIT[torch.float32]
    pixels = x.numel() / x.shape[1]
    mean, variance = x.mean(sums), x.var(sums, unbiased=False)
    inverse = (variance + norm.eps).rsqrt()
    scale = norm.weight.abs() * inverse
    largest = x.abs().amax(sums) + mean.abs()
    of_bias = block * dz.abs().sum(sums)
    of_weight = block * inverse * (dz.abs() * (x.abs() + mean.abs().view(-1, 1, 1))).sum(sums)
    summed = (of_bias + of_weight * inverse * largest) / pixels
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return {
        "outputs": _beside(few * (scale * largest + norm.bias.abs()), x) + few * added.abs().max(),
        "maps": _beside(scale * (few * dz.abs().amax(sums) + summed), x),
        "added": torch.zeros(()),
        "weight": of_weight,
        "bias": of_bias,
        "running_mean": few * (norm.running_mean.abs() + mean.abs()),
        "running_var": few * (norm.running_var + 2 * variance),
        "num_batches_tracked": torch.zeros(()),
    }


def _beside(values: Tensor, maps: Tensor) -> Tensor:
    return values.detach().view(1, -1, *[1] * (maps.dim() - 2))
