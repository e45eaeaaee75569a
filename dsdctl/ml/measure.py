"""Measuring a network: accuracies, memorisation and entropy in eval mode, without augmentation."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsdctl.ml.batches import inference_batch_size
from dsdctl.ml.data import Data, Images, Split
from dsdctl.ml.device import precision
from dsdctl.ml.entropy import ActivationCounter
from dsdctl.ml.views import Normalization


@dataclass(frozen=True)
class Measurement:
    """Accuracies and rates are fractions; entropies are in bits, per layer and their mean.

    `flip_rate` is the fraction of training labels that noise has changed. Of those images,
    `fitted_noisy` is the fraction predicted as their noisy label, `fitted_true` as their true one;
    both are None if no label was changed.
    """

    train_accuracy: float
    flip_rate: float
    fitted_noisy: float | None
    fitted_true: float | None
    validation_accuracy: float
    test_accuracy: float
    entropy_bits: float
    entropy_bits_per_layer: dict[str, float]


def measure(
    network: nn.Module, data: Data, normalization: Normalization, precision_name: str
) -> Measurement:
    """Measure `network` on all images of `data`; the entropy is taken over the training images."""
    network.eval()
    first = data.train.images[torch.zeros(1, dtype=torch.int64)]
    at_once = inference_batch_size(network, normalization(first))
    with ActivationCounter(network) as counter:
        logits = predict(network, data.train.images, normalization, precision_name, at_once)
    train = logits.argmax(1)
    bits = counter.layer_bits()
    flipped = data.train.labels != data.clean_labels
    count = int(flipped.count_nonzero())
    fitted = train[flipped]
    test = _accuracy(network, data.test, normalization, precision_name, at_once)
    validation = test
    if data.validation is not data.test:
        validation = _accuracy(network, data.validation, normalization, precision_name, at_once)
    return Measurement(
        train_accuracy=_fraction(train == data.train.labels),
        flip_rate=_fraction(flipped),
        fitted_noisy=_fraction(fitted == data.train.labels[flipped]) if count else None,
        fitted_true=_fraction(fitted == data.clean_labels[flipped]) if count else None,
        validation_accuracy=validation,
        test_accuracy=test,
        entropy_bits=sum(bits.values()) / len(bits) if bits else 0.0,
        entropy_bits_per_layer=bits,
    )


@torch.no_grad()
def predict(
    network: nn.Module,
    images: Images,
    normalization: Normalization,
    precision_name: str,
    at_once: int,
) -> Tensor:
    """Logits (N, K), float32, of uint8 images (N, H, W, C), in eval mode, `at_once` in a batch."""
    network.eval()
    with precision(precision_name, images.device):
        return torch.cat([network(normalization(part)).float() for part in images.split(at_once)])


def _accuracy(
    network: nn.Module,
    split: Split,
    normalization: Normalization,
    precision_name: str,
    at_once: int,
) -> float:
    predicted = predict(network, split.images, normalization, precision_name, at_once).argmax(1)
    return _fraction(predicted == split.labels)


def _fraction(hits: Tensor) -> float:
    return int(hits.count_nonzero()) / len(hits)
