"""The kernels for GPUs, run by Triton's interpreter on the CPU, against torch's own operations.

Inputs are multiples of a half, so that sums of their products are exact in float32 and no rounding
decides about a ReLU or a maximum. The interpreter has no products of bf16 matrices.
"""

import copy
import os
from dataclasses import replace

os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton

import pytest
import torch
import torch.nn.functional as F
from networks import build_network
from norms import drawn, norm_of
from samples import SETTINGS, UNIT
from test_graph import faithful
from torch import Tensor, nn

from dsdctl.bench.cases import case_masks
from dsdctl.ml import gpu
from dsdctl.ml.graph import Capture
from dsdctl.ml.losses import distillation_loss
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.train import Trainer
from dsdctl.ml.views import Normalization, ViewReader, Views

pytest.importorskip("triton")

from dsdctl.ml.gpu import convolution, loss, sgd, views
from dsdctl.ml.gpu.norm import Kind, normalize

ADDITIONS = 200
"""One after the other in a sum, at most: 16 tiles, the tile's rows as a tree, 128 parts."""
EXACT = ADDITIONS * UNIT[torch.float32]


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the kernels be used on the CPU, in few programs: the interpreter runs one by one."""
    monkeypatch.setattr(gpu, "used_on", lambda _device: True)
    monkeypatch.setattr(sgd, "BLOCK", 2**20)
    monkeypatch.setattr(views, "BLOCK", 2**16)


def assert_near(ours: Tensor, exact: Tensor) -> None:
    """Both but for the rounding of sums, and of the results themselves if they are bf16."""
    bound = EXACT + (UNIT[torch.bfloat16] if ours.dtype == torch.bfloat16 else 0)
    difference = (ours.detach().double() - exact.detach()).norm()
    assert float(difference) <= bound * float(exact.detach().norm())


KINDS = {
    "vgg": (Kind(relu_before=True), True, False),
    "vgg, pooled": (Kind(relu_before=True, pool=True), True, False),
    "resnet": (Kind(relu_after=True), False, False),
    "resnet, added": (Kind(relu_after=True), False, True),
    "alone": (Kind(), False, False),
}


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 16, 4, 4), torch.float32),
        ((3, 48, 6, 2), torch.bfloat16),
        ((33, 80, 2, 4), torch.float32),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_normalization_with_what_surrounds_it_equals_torchs_modules(
    kind: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    what, biased, adds = KINDS[kind]
    maps, added = drawn(shape, dtype), drawn(shape, dtype, seed=6) if adds else None
    bias = drawn((shape[1], 1, 1, 1)).flatten() if biased else None
    norm = norm_of(shape[1])
    reference = copy.deepcopy(norm).double()
    given = [each.requires_grad_() for each in (maps, bias, added) if each is not None]
    ours = normalize(maps, bias, norm, what, added)

    exact_maps, exact_bias, exact_added = (
        None if each is None else each.detach().double().requires_grad_()
        for each in (maps, bias, added)
    )
    assert exact_maps is not None
    z = exact_maps if exact_bias is None else exact_maps + exact_bias[:, None, None]
    out = reference(F.relu(z) if what.relu_before else z)
    out = F.max_pool2d(out, 2) if what.pool else out
    out = out if exact_added is None else out + exact_added
    exact = F.relu(out) if what.relu_after else out
    exacts = [each for each in (exact_maps, exact_bias, exact_added) if each is not None]

    assert_near(ours, exact)
    upstream = drawn(tuple(exact.shape), dtype, seed=5)
    gradients = torch.autograd.grad(ours, [*given, norm.weight, norm.bias], upstream)
    expected = torch.autograd.grad(
        exact, [*exacts, reference.weight, reference.bias], upstream.double()
    )
    for gradient, each in zip(gradients, expected, strict=True):
        assert_near(gradient, each)
    for name in ("running_mean", "running_var"):
        assert_near(norm.get_buffer(name), reference.get_buffer(name))
    assert norm.num_batches_tracked == reference.num_batches_tracked == 1


def test_a_channel_that_hardly_varies_keeps_its_variance() -> None:
    """Of 1,000 and steps of 2^-10 float32's sum of squares would leave nothing."""
    maps = (1000 + drawn((8, 16, 4, 4)) / 512).contiguous(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(16)
    exact = copy.deepcopy(norm).double()
    expected, ours = exact(maps.double()), normalize(maps, None, norm, Kind())
    assert norm.running_var is not None
    assert exact.running_var is not None
    assert_near(norm.running_var, exact.running_var)
    # The mean is rounded, as torch's is: by 1,000 units at most, of a deviation of about 2^-7.
    torch.testing.assert_close(
        ours.double(), expected, rtol=0, atol=2 * 1000 * UNIT[ours.dtype] / 2**-8
    )


def test_what_diverges_stays_visible() -> None:
    maps = drawn((2, 16, 4, 4))
    maps[0, 3, 0, 0] = torch.nan
    out = normalize(maps, None, nn.BatchNorm2d(16), Kind(relu_after=True))
    assert out[:, 3].isnan().all()
    assert out[:, :3].isfinite().all()


@pytest.mark.parametrize(
    ("channels", "shape"),
    [((3, 32), (2, 8, 8)), ((1, 16), (3, 6, 4)), ((32, 32), (2, 8, 8)), ((48, 64), (3, 5, 4))],
)
def test_a_convolution_equals_torchs(channels: tuple[int, int], shape: tuple[int, ...]) -> None:
    few, (batch, height, width) = channels[0] <= convolution.FEW, shape
    maps = drawn((batch, channels[0], height, width)).requires_grad_(not few)
    weight = drawn((channels[1], channels[0], 3, 3), seed=7).requires_grad_()
    assert convolution.fits(maps, weight)
    ours, theirs = convolution.convolve(maps, weight), F.conv2d(maps, weight, padding=1)
    assert torch.equal(ours, theirs)
    upstream = drawn(tuple(theirs.shape), seed=5)
    learns = [weight] if few else [weight, maps]
    for one, other in zip(
        torch.autograd.grad(ours, learns, upstream),
        torch.autograd.grad(theirs, learns, upstream),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_views_are_those_of_torchs_operations_bit_for_bit() -> None:
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 8, 6, 3), generator=stream, dtype=torch.uint8)
    normalization = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    reader = ViewReader(images, normalization, Views(flip=True, crop=2))
    indices = torch.randint(20, (13,), generator=stream)
    which = torch.randint(reader.views.count, (13,), generator=stream)
    expected = reader(indices, which)
    padded = F.pad(images, (0, 0, 2, 2, 2, 2))
    constants = normalization.constants(images.device)
    ours = views.read(padded, indices, which, *constants, 2)
    assert torch.equal(ours, expected)
    assert ours.stride() == expected.stride()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("shape", [(7, 10), (16, 3)])
def test_losses_equal_torchs(shape: tuple[int, int], taught: bool, smoothing: float) -> None:
    logits = drawn((*shape, 1, 1)).flatten(1).contiguous().requires_grad_()
    teacher = drawn((*shape, 1, 1), seed=6).flatten(1).contiguous() if taught else None
    labels = torch.arange(shape[0]) % shape[1]
    weights = {"alpha": 0.8, "temperature": 10.0, "label_smoothing": smoothing}
    ours = loss.loss(logits, teacher, labels, **weights)
    exact_logits = logits.detach().double().requires_grad_()
    if teacher is None:
        exact = F.cross_entropy(exact_logits, labels, label_smoothing=smoothing)
    else:
        exact = distillation_loss(exact_logits, teacher.double(), labels, **weights)
    assert_near(ours, exact)
    (gradient,) = torch.autograd.grad(3 * ours, logits)
    (expected,) = torch.autograd.grad(3 * exact, exact_logits)
    assert_near(gradient, expected)


def test_a_batch_is_tallied() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [4.0, 4.0, 0.0], [0.0, 1.0, 5.0]])
    total, correct = torch.tensor(1.5), torch.tensor(4)
    loss.tally(logits, torch.tensor([1, 1, 2]), torch.tensor(0.25), total, correct)
    assert total == 1.5 + 3 * 0.25
    assert correct == 4 + 2  # of equal logits the first is the answer


@pytest.mark.parametrize(
    "options",
    [{}, {"nesterov": True}, {"momentum": 0.0}, {"clip_norm": 0.5}],
    ids=["momentum", "nesterov", "plain", "clipped"],
)
def test_flat_sgd_takes_torchs_steps(options: dict[str, float]) -> None:
    settings = Settings(**{**vars(SETTINGS), **options})
    network = build_network("vgg-like", 1, 3, seed=0, depth=1, width=4, pool=1)
    masks = case_masks(network)
    exact = copy.deepcopy(network).double()
    weights = dict(exact.named_parameters())
    update = sgd.FlatSGD(network, masks, settings)
    optimizer = torch.optim.SGD(
        exact.parameters(), settings.lr, settings.momentum,
        weight_decay=settings.weight_decay, nesterov=settings.nesterov,
    )  # fmt: skip

    def apply_masks() -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                weights[name].mul_(mask)

    apply_masks()
    for number in range(3):
        update.set_lr(settings.lr / (number + 1))
        optimizer.param_groups[0]["lr"] = settings.lr / (number + 1)
        slopes = {
            name: torch.randn(p.shape, generator=torch.Generator().manual_seed(number))
            for name, p in network.named_parameters()
        }
        update.step(sum((p * slopes[name]).sum() for name, p in network.named_parameters()))  # type: ignore[arg-type]
        for name, parameter in exact.named_parameters():
            parameter.grad = slopes[name].double() * masks.get(name, torch.ones(()))
        if settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(exact.parameters(), settings.clip_norm)
        optimizer.step()
        apply_masks()
    for name, parameter in network.named_parameters():
        assert_near(parameter, weights[name])
    for name, mask in masks.items():
        assert not network.get_parameter(name)[~mask].any()


def test_flat_sgd_computes_with_bf16_copies_of_the_convolutions() -> None:
    network = build_network("vgg-like", 1, 3, seed=0, depth=1, width=4, pool=1)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    update = sgd.FlatSGD(network, None, replace(SETTINGS, precision="bf16", weight_decay=0.0))
    copies = update.inputs()
    convolutions = {f"{n}.weight" for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    assert set(copies) == convolutions
    assert len(convolutions) == 2
    update.step(sum(copy.sum() for copy in copies.values()))  # type: ignore[arg-type]
    for name, value in network.named_parameters():
        moved = SETTINGS.lr if name in copies else 0.0
        torch.testing.assert_close(value.detach(), before[name] - moved)
        if name in copies:
            # The interpreter cuts off what a GPU rounds: by less than two units.
            torch.testing.assert_close(
                copies[name].float(), value, rtol=2 * UNIT[torch.bfloat16], atol=0
            )


def test_what_has_no_gradient_only_decays() -> None:
    network = build_network("mlp", 1, 2, seed=0, image_size=(4, 4), hidden=(4,))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    used, *_ = before
    sgd.FlatSGD(network, None, SETTINGS).step(network.get_parameter(used).sum())
    factor = 1 - SETTINGS.lr * SETTINGS.weight_decay
    for name, value in network.named_parameters():
        expected = before[name] * factor - (SETTINGS.lr if name == used else 0)
        torch.testing.assert_close(value.detach(), expected)


def trained(arch: str, capture: Capture | None = None, steps: int | None = None) -> Trainer:
    options = {"depth": 1, "width": 16, "pool": 2} if arch == "vgg-like" else {}
    network = build_network(arch, 3, 10, seed=0, **options)  # type: ignore[arg-type]
    trainer = Trainer(network, case_masks(network), SETTINGS, capture=capture)
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (18, 8, 8, 3), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, 10, (18,), generator=stream)
    reader = ViewReader(images, Normalization((0.5,) * 3, (0.25,) * 3), Views(flip=True, crop=1))
    if steps != 0:
        trainer.train_epoch(reader, labels, seed=0, level=1, epoch=0, steps=steps)
    return trainer


@pytest.fixture
def plain(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """The state after a step without the kernels; asked for before `on`."""
    return trained(request.param, steps=1).state()


@pytest.mark.parametrize(
    "plain",
    ["vgg-like", pytest.param("resnet18", marks=pytest.mark.long)],
    indirect=True,
    ids=str,
)
def test_a_step_is_that_of_torchs_operations(
    plain: dict[str, Tensor], request: pytest.FixtureRequest
) -> None:
    arch = request.node.callspec.params["plain"]
    request.getfixturevalue("on")
    ours = trained(arch, steps=1).state()
    assert ours.keys() == plain.keys()
    for part in ("momentum/", "network/"):
        names = [name for name in plain if name.startswith(part)]
        one, other = (
            torch.cat([state[name].double().flatten() for name in names]) for state in (ours, plain)
        )
        # Where a rounding moves a number across a ReLU, a gradient changes in full: some of 1e5.
        assert float((one - other).norm()) < 1e-2 * float(other.norm())


@pytest.mark.usefixtures("on")
@pytest.mark.long
def test_a_recorded_step_and_a_restored_state_go_on_alike() -> None:
    one, other = trained("vgg-like"), trained("vgg-like", faithful)
    for name, tensor in one.state().items():
        assert torch.equal(other.state()[name], tensor), name
    fresh = trained("vgg-like", steps=0)
    fresh.load_state(one.state())
    for name, tensor in one.state().items():
        assert torch.equal(fresh.state()[name], tensor), name


def test_they_are_used_on_gpus_alone_and_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not gpu.used_on(torch.device("cpu"))
    for mode, used in (("off", False), ("auto", False), ("all", True)):
        monkeypatch.setenv("DSDCTL_KERNELS", mode)
        assert gpu.used_on(torch.device("cuda")) is used
        assert gpu.in_use(torch.device("cuda")) == (("triton",) if used else ())
        assert gpu.said().startswith("used" if used else "not used")
