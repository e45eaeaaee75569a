"""Where asymmetric noise takes each class, and how many labels are wrong."""

from typing import Any

import pytest
import torch

from dsdctl.data.labels import FlipRate, describe_noise, flip_rate
from dsdctl.data.sources import HUMAN_KEYS
from dsdctl.ml.noise import Noise, noisy_labels
from dsdctl.ml.randomness import generator
from dsdctl.spec.catalog import CATALOG
from dsdctl.spec.dataset import LabelNoise

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

SUPERCLASSES = """
beaver dolphin otter seal whale
aquarium_fish flatfish ray shark trout
orchid poppy rose sunflower tulip
bottle bowl can cup plate
apple mushroom orange pear sweet_pepper
clock keyboard lamp telephone television
bed chair couch table wardrobe
bee beetle butterfly caterpillar cockroach
bear leopard lion tiger wolf
bridge castle house road skyscraper
cloud forest mountain plain sea
camel cattle chimpanzee elephant kangaroo
fox porcupine possum raccoon skunk
crab lobster snail spider worm
baby boy girl man woman
crocodile dinosaur lizard snake turtle
hamster mouse rabbit shrew squirrel
maple_tree oak_tree palm_tree pine_tree willow_tree
bicycle bus motorcycle pickup_truck train
lawn_mower rocket streetcar tank tractor
"""
"""CIFAR-100's superclasses, a line each; its classes are numbered by their names' alphabet."""


def test_cifar10s_map_is_that_of_the_literature() -> None:
    targets = [CIFAR10[target] for target in CATALOG["cifar10"].class_targets]
    moved = {name: target for name, target in zip(CIFAR10, targets, strict=True) if name != target}
    assert moved == {
        "truck": "automobile",
        "bird": "airplane",
        "deer": "horse",
        "cat": "dog",
        "dog": "cat",
    }


def test_cifar100s_map_stays_within_each_superclass() -> None:
    groups = [line.split() for line in SUPERCLASSES.strip().splitlines()]
    names = sorted(name for group in groups for name in group)
    assert len(names) == len(set(names)) == 100
    expected = {}
    for group in groups:
        for name, following in zip(group, group[1:] + group[:1], strict=True):
            expected[name] = following
    targets = CATALOG["cifar100"].class_targets
    assert {name: names[targets[label]] for label, name in enumerate(names)} == expected


def test_all_published_labels_have_a_name_in_their_file() -> None:
    published = {labels for record in CATALOG.values() for labels in record.human_labels}
    assert published == HUMAN_KEYS.keys()


def rate_of(dataset: str, train: int, classes: int, **keys: Any) -> FlipRate:
    return flip_rate(LabelNoise(**keys), dataset, published=50_000, train=train, classes=classes)


@pytest.mark.parametrize(
    ("dataset", "classes", "kind"),
    [
        ("digits", 10, "symmetric"),
        ("npz", 7, "pair-flip"),
        ("cifar100", 100, "asymmetric"),
        ("npz", 7, "symmetric-all"),
        ("cifar10", 10, "asymmetric"),
    ],
)
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.333, 1.0])
def test_what_is_foretold_is_what_is_measured(
    dataset: str, classes: int, kind: str, rate: float
) -> None:
    train = 20_000 - 20_000 % classes
    foretold = rate_of(dataset, train, classes, kind=kind, rate=rate)
    labels = torch.arange(train) % classes
    noise = Noise(kind, rate, 0, CATALOG[dataset].class_targets)
    noisy = noisy_labels(labels, classes, noise, generator("label-noise", 0))
    measured = int((noisy != labels).sum()) / train
    if foretold.exact:
        assert measured == foretold.rate
    else:
        assert measured == pytest.approx(foretold.rate, abs=5 * (0.25 / train) ** 0.5)
    certain = {"symmetric": True, "pair-flip": True, "asymmetric": dataset == "cifar100"}
    assert foretold.exact is (certain.get(kind, False) or rate == 0)


@pytest.mark.parametrize(
    ("name", "labels", "percent"),
    [
        # As published (Wei et al. 2022, Table 1), but for `aggre`, of which it says 9.03.
        ("cifar10n", "aggre", 9.01),
        ("cifar10n", "random1", 17.23),
        ("cifar10n", "random2", 18.12),
        ("cifar10n", "random3", 17.64),
        ("cifar10n", "worse", 40.21),
        ("cifar100n", "noisy", 40.20),
    ],
)
def test_human_labels_are_as_wrong_as_was_published(name: str, labels: str, percent: float) -> None:
    whole = rate_of(name, 50_000, 10, kind="human", labels=labels)
    assert whole.exact
    assert 100 * whole.rate == pytest.approx(percent, abs=0.005)
    assert rate_of(name, 45_000, 10, kind="human", labels=labels) == FlipRate(whole.rate, False)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rate": 0.2}, "symmetric, rate 0.2"),
        ({"kind": "pair-flip", "rate": 0.45}, "pair-flip, rate 0.45"),
        ({"kind": "human", "labels": "worse"}, "human, worse"),
        ({"rate": 0.0}, "none"),
    ],
)
def test_noise_is_described_as_it_was_given(keys: dict[str, Any], words: str) -> None:
    assert describe_noise(LabelNoise(**keys)) == words
