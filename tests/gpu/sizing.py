"""How much of Table 1 fits into a time, from rates in images a second."""

from dataclasses import dataclass

VIEWS = 162
"""Of an image under flip and crop by 4: forwards of a teacher table."""

SHARING = 1.25
"""How much longer the longest chain takes for what runs beside it."""

LEVEL_SECONDS = 1.5
"""What a level takes besides its training: data, pruning, recording, measuring, storing."""

START_SECONDS = 15.0
"""What a run takes to begin, and to end with its comparison."""


@dataclass(frozen=True)
class Rates:
    """Images a second: of one trajectory, or summed; `forwards`: of the teacher, no gradient."""

    student: float
    distilled: float
    teacher: float
    forwards: float


@dataclass(frozen=True)
class Size:
    """A brief Table 1: `levels` rounds of pruning follow level 0."""

    epochs: int
    levels: int
    images: int


def brief_seconds(size: Size, one: Rates, at_once: Rates) -> float:
    """What a brief Table 1 takes: all of its work at the rates of several trajectories `at_once`,
    or its longest chain, the teacher and then its student, at those of `one`."""
    trainings = size.levels + 1
    passed = size.epochs * size.images * trainings
    work = passed / at_once.teacher + passed / at_once.student + 2 * passed / at_once.distilled
    chain = passed / one.teacher + passed / one.distilled
    # Two teachers, each with a table or, where that is less, called for every batch.
    forwards = 2 * min(VIEWS, size.epochs * trainings) * size.images / one.forwards
    besides = START_SECONDS + 2 * trainings * LEVEL_SECONDS
    return besides + SHARING * max(work, chain) + forwards


def largest(seconds: float, one: Rates, at_once: Rates, images: int) -> Size | None:
    """The largest brief Table 1 that fits: 20 epochs of 12 rounds on as many images as fit, since
    fewer epochs fit no noisy label; with fewer than 2,000 images fewer rounds, then epochs."""
    for epochs, levels in ((20, 12), (20, 8), (15, 6), (10, 4), (5, 2), (2, 1)):
        for count in range(images, min(images, 2000) - 1, -1000):
            size = Size(epochs, levels, count)
            if brief_seconds(size, one, at_once) <= seconds:
                return size
    return None


def milestones(epochs: int) -> list[int]:
    """Those of specs/table1.yaml, 80 and 120 of 160, at as large a part of `epochs`."""
    wanted = {round(epochs * part) for part in (80 / 160, 120 / 160)}
    return sorted(epoch for epoch in wanted if 0 < epoch < epochs)


def whole_seconds(rates: Rates, at_once: Rates) -> float:
    """specs/table1.yaml with three seeds: 30 levels of 160 epochs, at rates summed over the
    trajectories at once where there are three, and at those of one for the teacher."""
    passed = 160 * 50_000 * 30
    students = 3 * passed / at_once.student + 2 * 3 * passed / at_once.distilled
    return passed / rates.teacher + students + 2 * VIEWS * 50_000 / rates.forwards
