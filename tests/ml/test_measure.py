import copy
from dataclasses import asdict

import pytest
import torch
from networks import build_network
from samples import in_float64
from torch import Tensor, nn

from dsdctl.ml import batches
from dsdctl.ml.batches import BATCH
from dsdctl.ml.data import Data, Split
from dsdctl.ml.entropy import ActivationCounter
from dsdctl.ml.measure import measure, predict
from dsdctl.ml.networks.network import Network
from dsdctl.ml.noise import flip_symmetric
from dsdctl.ml.views import Normalization

NORMALIZATION = Normalization((0.4,), (0.3,))


def random_split(count: int, seed: int) -> Split:
    stream = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 4, 4, 1), generator=stream, dtype=torch.uint8)
    return Split(images, torch.randint(0, 3, (count,), generator=stream))


@pytest.fixture
def data() -> Data:
    """More training images than one batch of a measurement holds, 40 % with flipped labels."""
    train = random_split(BATCH + 37, 0)
    noisy = flip_symmetric(train.labels, 3, 0.4, torch.Generator().manual_seed(3))
    validation, test = random_split(50, 1), random_split(60, 2)
    return Data(Split(train.images, noisy), train.labels, validation, test, 3)


@pytest.fixture
def network() -> Network:
    """A network in train mode that predicts every class now and then."""
    network = build_network("vgg-like", 1, 3, seed=0, depth=1, width=4, pool=2)
    with torch.no_grad():
        images = NORMALIZATION(random_split(50, 9).images)
        network(images)  # moves BatchNorm's statistics
        network.eval()
        network.classifier.bias.sub_(network(images).mean(0))
    return in_float64(network.train())


@torch.no_grad()
def predicted_one_by_one(network: nn.Module, images: Tensor) -> list[int]:
    network = copy.deepcopy(network).eval()
    pixels = ((images / 255 - 0.4) / 0.3).permute(0, 3, 1, 2)
    return [int(network(image[None]).argmax()) for image in pixels]


def test_accuracies_and_memorisation_equal_a_count_image_by_image(
    network: Network, data: Data
) -> None:
    train = predicted_one_by_one(network, data.train.images)
    assert set(train) == {0, 1, 2}
    rows = list(zip(train, data.train.labels.tolist(), data.clean_labels.tolist(), strict=True))
    flipped = [row for row in rows if row[1] != row[2]]
    assert len(flipped) == int(0.4 * len(rows))

    def accuracy(split: Split) -> float:
        predicted = predicted_one_by_one(network, split.images)
        hits = [a == b for a, b in zip(predicted, split.labels.tolist(), strict=True)]
        return sum(hits) / len(hits)

    measured = asdict(measure(network, data, NORMALIZATION, "fp32"))

    expected = {
        "train_accuracy": sum(guess == noisy for guess, noisy, _ in rows) / len(rows),
        "fitted_noisy": sum(guess == noisy for guess, noisy, _ in flipped) / len(flipped),
        "fitted_true": sum(guess == true for guess, _, true in flipped) / len(flipped),
        "validation_accuracy": accuracy(data.validation),
        "test_accuracy": accuracy(data.test),
    }
    assert {name: measured[name] for name in expected} == pytest.approx(expected)
    assert len(set(expected.values())) == 5  # none could stand in for another


@torch.no_grad()
def test_entropy_is_the_plain_mean_over_layers_on_the_training_images(data: Data) -> None:
    network = in_float64(build_network("vgg-like", 1, 3, seed=0, depth=2, width=4, pool=2)).eval()
    with ActivationCounter(network) as counter:
        network(NORMALIZATION(data.train.images))
    measured = measure(network, data, NORMALIZATION, "fp32")
    assert measured.entropy_bits_per_layer == pytest.approx(counter.layer_bits())
    layers = measured.entropy_bits_per_layer.values()
    assert len(layers) == 4
    assert max(layers) - min(layers) > 0.01  # so a mean over units would be another number
    assert measured.entropy_bits == pytest.approx(sum(layers) / 4)


def test_measuring_in_smaller_batches_gives_the_same(
    network: Network, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asdict(measure(network, data, NORMALIZATION, "fp32"))
    monkeypatch.setattr(batches, "BATCH", 7)
    parts = asdict(measure(network, data, NORMALIZATION, "fp32"))
    assert parts.pop("entropy_bits_per_layer") == pytest.approx(whole.pop("entropy_bits_per_layer"))
    assert parts == pytest.approx(whole)


def test_without_flipped_labels_there_is_no_memorisation(network: Network, data: Data) -> None:
    clean = Data(
        Split(data.train.images, data.clean_labels), data.clean_labels, data.test, data.test, 3
    )
    measured = measure(network, clean, NORMALIZATION, "fp32")
    assert measured.fitted_noisy is None
    assert measured.fitted_true is None
    assert measured.validation_accuracy == measured.test_accuracy


def test_measuring_does_not_change_weights_or_statistics(network: Network, data: Data) -> None:
    before = copy.deepcopy(network.state_dict())
    measure(network, data, NORMALIZATION, "fp32")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_predictions_are_float32_logits_without_gradient(
    name: str, network: Network, data: Data
) -> None:
    logits = predict(network, data.train.images, NORMALIZATION, name, BATCH)
    assert logits.shape == (BATCH + 37, 3)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
