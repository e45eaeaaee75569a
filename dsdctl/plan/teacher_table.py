"""Whether a teacher's logits are cached, and how large that cache is."""

from typing import Literal

from dsdctl.plan.rows import TrainingSetup
from dsdctl.spec.views import Augment

MAX_TABLE_BYTES = 4 * 2**30

ENDLESS_VIEWS = "no table can hold the views of random resized crops"


def table_decision(
    setting: Literal["auto", "always", "never"], student: TrainingSetup
) -> tuple[bool, str]:
    """Whether the teacher's logits are cached, and why; decided by the spec, never by the machine.

    Caching costs one forward pass per image and view; calling the teacher directly costs one per
    image, epoch and level. The cache must also fit into memory beside everything else.
    """
    if setting != "auto":
        return setting == "always", f"teacher.table: {setting}"
    if student.augment.resized_crop is not None:
        return False, ENDLESS_VIEWS
    views = view_count(student.augment)
    calls = student.training.epochs * student.levels
    size = table_bytes(student)
    if size > MAX_TABLE_BYTES:
        return False, f"a table would take {size / 2**30:.1f} GiB"
    if views > calls:
        return False, f"{views} views an image are more than the {calls} calls it would save"
    return True, f"{views} views an image instead of {calls} calls"


def view_count(augment: Augment) -> int:
    """Distinct views of an image under flip and crop: 2 x 9 x 9 = 162 for the paper's CIFAR.

    Not for random resized crops, whose views are never cached.
    """
    assert augment.resized_crop is None
    return (2 if augment.flip else 1) * (2 * augment.crop + 1) ** 2


def table_bytes(student: TrainingSetup) -> int:
    """Bytes of the cached teacher logits: fp32, for every view of every training image."""
    images = student.images
    return 4 * images.sizes.train * view_count(student.augment) * images.facts.classes
