"""What is known of label noise without reading the labels.

Labels are *selected* at the rate that a spec gives; those that then differ from the true ones are
*flipped*. The fraction of flipped training labels is the true flip rate.
"""

from dataclasses import dataclass

from dsdctl.spec.catalog import CATALOG
from dsdctl.spec.dataset import LabelNoise


@dataclass(frozen=True)
class FlipRate:
    """The fraction of training labels that are not the true ones; `exact`, or expected."""

    rate: float
    exact: bool


def flip_rate(
    noise: LabelNoise, dataset: str, *, published: int, train: int, classes: int
) -> FlipRate:
    """The true flip rate, as far as it is known without reading the labels.

    `train` training images are left of `published` ones after hold-outs.
    """
    if noise.kind == "human":
        assert noise.labels is not None
        wrong = CATALOG[dataset].human_labels[noise.labels].wrong
        return FlipRate(wrong / published, train == published)
    assert noise.rate is not None
    selected = int(train * noise.rate) / train
    if noise.kind == "symmetric-all":
        return FlipRate(selected * (1 - 1 / classes), selected == 0)
    if noise.kind == "asymmetric":
        targets = CATALOG[dataset].class_targets
        # CIFAR's classes, the only ones with targets, are of equal size.
        moved = sum(label != target for label, target in enumerate(targets)) / len(targets)
        return FlipRate(selected * moved, selected == 0 or moved == 1)
    return FlipRate(selected, True)


def describe_noise(noise: LabelNoise) -> str:
    """Label noise in words, as a spec gives it: `symmetric, rate 0.2` or `human, worse`."""
    if noise.kind == "human":
        return f"human, {noise.labels}"
    return f"{noise.kind}, rate {noise.rate:g}" if noise.rate else "none"
