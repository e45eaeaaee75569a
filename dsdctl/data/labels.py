"""What is known of label noise before a label is read: where classes go, how many are wrong.

Labels are *selected* at the rate that a spec gives; those that then differ from the true ones are
*flipped*. The share of flipped training labels is the true flip rate.
"""

from dataclasses import dataclass

from dsdctl.spec.dataset import HumanLabels, LabelNoise

CIFAR10_TARGETS = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
"""truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog; the others stay."""

CIFAR100_SUPERCLASSES = (
    (4, 30, 55, 72, 95),  # aquatic mammals
    (1, 32, 67, 73, 91),  # fish
    (54, 62, 70, 82, 92),  # flowers
    (9, 10, 16, 28, 61),  # food containers
    (0, 51, 53, 57, 83),  # fruit and vegetables
    (22, 39, 40, 86, 87),  # household electrical devices
    (5, 20, 25, 84, 94),  # household furniture
    (6, 7, 14, 18, 24),  # insects
    (3, 42, 43, 88, 97),  # large carnivores
    (12, 17, 37, 68, 76),  # large man-made outdoor things
    (23, 33, 49, 60, 71),  # large natural outdoor scenes
    (15, 19, 21, 31, 38),  # large omnivores and herbivores
    (34, 63, 64, 66, 75),  # medium-sized mammals
    (26, 45, 77, 79, 99),  # non-insect invertebrates
    (2, 11, 35, 46, 98),  # people
    (27, 29, 44, 78, 93),  # reptiles
    (36, 50, 65, 74, 80),  # small mammals
    (47, 52, 56, 59, 96),  # trees
    (8, 13, 48, 58, 90),  # vehicles 1
    (41, 69, 81, 85, 89),  # vehicles 2
)
"""The fine classes of each of CIFAR-100's superclasses, which are not neighbours in number."""

HUMAN_FLIPS: dict[tuple[str, HumanLabels], int] = {
    ("cifar10n", "aggre"): 4_505,
    ("cifar10n", "worse"): 20_104,
    ("cifar10n", "random1"): 8_617,
    ("cifar10n", "random2"): 9_061,
    ("cifar10n", "random3"): 8_820,
    ("cifar100n", "noisy"): 20_100,
}
"""How many of the 50,000 published human labels are not the true ones."""


def _cifar100_targets() -> tuple[int, ...]:
    """The next class of the same superclass, and the first one after the last."""
    following = {
        fine: group[(place + 1) % len(group)]
        for group in CIFAR100_SUPERCLASSES
        for place, fine in enumerate(group)
    }
    return tuple(following[fine] for fine in range(100))


CLASS_TARGETS: dict[str, tuple[int, ...]] = {
    "cifar10": tuple(CIFAR10_TARGETS.get(label, label) for label in range(10)),
    "cifar100": _cifar100_targets(),
}
"""By data set, where asymmetric noise takes each class."""


@dataclass(frozen=True)
class FlipRate:
    """The share of training labels that are not the true ones; exact, or what is to be expected."""

    rate: float
    exact: bool


def flip_rate(
    noise: LabelNoise, dataset: str, *, published: int, train: int, classes: int
) -> FlipRate:
    """The true flip rate, as far as it is known without reading a label.

    `train` images are left of those `published` once others are held out.
    """
    if noise.kind == "human":
        assert noise.labels is not None
        return FlipRate(HUMAN_FLIPS[dataset, noise.labels] / published, train == published)
    assert noise.rate is not None
    selected = int(train * noise.rate) / train
    if noise.kind == "symmetric-all":
        return FlipRate(selected * (1 - 1 / classes), selected == 0)
    if noise.kind == "asymmetric":
        targets = CLASS_TARGETS[dataset]
        # Classes are equally large in CIFAR.
        moved = sum(label != target for label, target in enumerate(targets)) / len(targets)
        return FlipRate(selected * moved, selected == 0 or moved == 1)
    return FlipRate(selected, True)


def describe_noise(noise: LabelNoise) -> str:
    """Label noise in words, as a spec gives it: `symmetric, rate 0.2` or `human, worse`."""
    if noise.kind == "human":
        return f"human, {noise.labels}"
    return f"{noise.kind}, rate {noise.rate:g}" if noise.rate else "none"
