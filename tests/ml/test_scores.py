"""Scores rank weights: random ones by named streams alone, gradients as autograd gives them."""

import copy

import pytest
import torch
import torch.nn.functional as F
from networks import build_network
from samples import in_float64, random_images, with_random_statistics
from torch import Tensor
from torch.nn.utils import prune

from dsdctl.ml import batches
from dsdctl.ml.masks import Masks, count_nonzero, dense_masks, prunable_weights, remove_lowest
from dsdctl.ml.networks.network import Network
from dsdctl.ml.scores import gradient_sample, gradient_scores, random_scores, synflow_scores

WEIGHTS = {"a.weight": torch.ones(50, 40), "b.weight": torch.ones(30)}


def small_network() -> Network:
    network = build_network("vgg-like", 1, 4, seed=0, depth=2, width=3, pool=2)
    return in_float64(with_random_statistics(network))


def test_random_scores_are_a_function_of_seed_and_level() -> None:
    first = random_scores(WEIGHTS, seed=1, level=2)
    torch.manual_seed(99)  # global state plays no part
    again = random_scores(WEIGHTS, seed=1, level=2)
    assert all(torch.equal(first[name], again[name]) for name in WEIGHTS)
    for seed, level in ((1, 3), (2, 2)):
        other = random_scores(WEIGHTS, seed=seed, level=level)
        assert not any(torch.equal(first[name], other[name]) for name in WEIGHTS)
    assert {name: score.shape for name, score in first.items()} == {
        name: weight.shape for name, weight in WEIGHTS.items()
    }


def test_by_random_scores_every_weight_is_as_likely_to_go() -> None:
    rounds, removed = 300, {name: torch.zeros_like(weight) for name, weight in WEIGHTS.items()}
    for level in range(rounds):
        ranked = random_scores(WEIGHTS, seed=0, level=level)
        masks = remove_lowest(ranked, dense_masks(WEIGHTS), 406)  # a fifth of 2030
        assert count_nonzero(masks) == 1624
        for name, mask in masks.items():
            removed[name] += ~mask
    for counts in removed.values():
        # Each weight goes in 60 of 300 rounds, six standard deviations are 42.
        assert 18 < float(counts.min()) <= float(counts.max()) < 102
        assert float(counts.mean()) == pytest.approx(60, abs=6 * 6.9 / counts.numel() ** 0.5)


def test_random_pruning_removes_as_many_as_torchs() -> None:
    layer = torch.nn.Linear(37, 11)
    ranked = random_scores({"w": layer.weight}, seed=0, level=1)
    masks = remove_lowest(ranked, dense_masks({"w": layer.weight}), round(0.3 * 407))
    prune.random_unstructured(layer, "weight", amount=0.3)
    assert count_nonzero(masks) == int(layer.weight_mask.count_nonzero())  # type: ignore[operator, union-attr]


def test_a_gradient_sample_is_distinct_images_by_seed_and_level() -> None:
    sample = gradient_sample(100, 30, seed=0, level=1)
    assert len(set(sample.tolist())) == 30
    assert int(sample.min()) >= 0 and int(sample.max()) < 100
    assert torch.equal(sample, gradient_sample(100, 30, seed=0, level=1))
    assert not torch.equal(sample, gradient_sample(100, 30, seed=0, level=2))
    assert not torch.equal(sample, gradient_sample(100, 30, seed=1, level=1))


def image_by_image(network: Network, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """|w| times the absolute sum of the gradients of each image by itself."""
    network = copy.deepcopy(network).eval()
    for image, label in zip(images, labels, strict=True):
        torch.autograd.backward(F.cross_entropy(network(image[None]), label[None]))
    found = {}
    for name, weight in prunable_weights(network).items():
        assert weight.grad is not None
        found[name] = weight.detach().abs() * weight.grad.abs()
    return found


def test_gradient_scores_are_weight_times_gradient_whatever_the_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, images = small_network(), random_images(10, 1, 8, 8)
    labels = torch.arange(10) % 4
    expected = image_by_image(network, images, labels)
    for batch in (500, 3):
        monkeypatch.setattr(batches, "BATCH", batch)
        found = gradient_scores(network, images, labels)
        assert list(found) == list(expected)
        for name, score in found.items():
            torch.testing.assert_close(score, expected[name])


def test_gradient_scores_leave_the_network_as_it_is() -> None:
    network = small_network().train()
    before = copy.deepcopy(network.state_dict())
    gradient_scores(network, random_images(6, 1, 8, 8), torch.arange(6) % 4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def random_masks(weights: dict[str, Tensor], share: float) -> Masks:
    """Masks that keep about this share of the weights."""
    stream = torch.Generator().manual_seed(0)
    return {n: torch.rand(w.shape, generator=stream) < share for n, w in weights.items()}


def test_synaptic_flow_of_a_perceptron_has_its_closed_form() -> None:
    """Every path from a pixel of one to a class, through weights and past biases as they are."""
    network = build_network("mlp", 1, 4, seed=0, image_size=(3, 3), hidden=(6, 5))
    weights = prunable_weights(network)
    masks = random_masks(weights, 0.6)
    first, second, last = (
        (weight.detach().abs() * masks[name]).double() for name, weight in weights.items()
    )
    biases = [bias.double().abs() for name, bias in network.state_dict().items() if "bias" in name]
    reached = [torch.ones(9).double()]
    for weight, bias in ((first, biases[0]), (second, biases[1])):
        reached.append(weight @ reached[-1] + bias)
    onward = [torch.ones(4).double()]
    for weight in (last, second):
        onward.insert(0, onward[0] @ weight)

    found = synflow_scores(network, random_images(2, 1, 3, 3)[:1], masks)

    assert list(found) == list(weights)
    for score, weight, before, after in zip(
        found.values(), (first, second, last), reached, onward, strict=True
    ):
        torch.testing.assert_close(score, weight * after[:, None] * before)


def test_synaptic_flow_is_conserved_from_layer_to_layer() -> None:
    """Without biases all that flows out has come through each layer, pooled or normalized."""
    network = small_network().float()
    for name, tensor in network.state_dict().items():
        if "bias" in name or "running_mean" in name:
            tensor.zero_()
    masks = random_masks(prunable_weights(network), 0.5)
    scores = synflow_scores(network, random_images(1, 1, 8, 8), masks)
    flows = [score.sum() for score in scores.values()]
    assert flows[0] > 0
    for flow in flows:
        torch.testing.assert_close(flow, flows[0])
    for name, score in scores.items():
        assert not bool(score[~masks[name]].any()) and bool((score >= 0).all())


def test_flow_passes_by_buffers_of_booleans() -> None:
    network = small_network().float()
    masks = dense_masks(prunable_weights(network))
    expected = synflow_scores(network, random_images(1, 1, 8, 8), masks)
    network.register_buffer("causal", torch.ones(2, 2, dtype=torch.bool).tril())
    found = synflow_scores(network, random_images(1, 1, 8, 8), masks)
    assert all(torch.equal(found[name], score) for name, score in expected.items())


def test_scores_by_flow_leave_the_network_as_it_is() -> None:
    network = small_network().float().train()
    before = copy.deepcopy(network.state_dict())
    masks = dense_masks(prunable_weights(network))
    scores = synflow_scores(network, random_images(1, 1, 8, 8), masks)
    assert {score.dtype for score in scores.values()} == {torch.float64}
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
