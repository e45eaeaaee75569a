"""CIFAR's classes under asymmetric label noise: the class that each is easily mistaken for."""

_CIFAR10 = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}
"""truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog (Patrini et al. 2017)."""

_SUPERCLASSES = (
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
"""The fine classes of each of CIFAR-100's superclasses."""


def _cifar100_targets() -> tuple[int, ...]:
    """The next class of the same superclass; after the last, the first (Patrini et al. 2017)."""
    following = {
        fine: group[(place + 1) % len(group)]
        for group in _SUPERCLASSES
        for place, fine in enumerate(group)
    }
    return tuple(following[fine] for fine in range(100))


CIFAR10_TARGETS = tuple(_CIFAR10.get(label, label) for label in range(10))
CIFAR100_TARGETS = _cifar100_targets()
"""The class into which asymmetric noise turns each class; classes may map to themselves."""
