"""The data sets that a spec may name: a record for each. Nothing here imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from dsdctl.spec.cifar import CIFAR10_TARGETS, CIFAR100_TARGETS
from dsdctl.spec.views import Augment, Normalize, Size

IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR100 = Normalize(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))
SVHN = Normalize(mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970))
GREY = Normalize(mean=(0.3,), std=(0.37,))

NO_AUGMENTATION = Augment()
FLIP_AND_CROP = Augment(flip=True, crop=4)
FLIP_AND_RESIZED_CROP = Augment(flip=True, resized_crop=0.08)

HumanLabels = Literal["aggre", "worse", "random1", "random2", "random3", "noisy"]


@dataclass(frozen=True)
class Facts:
    """Sizes of a data set as networks see it, and defaults of a spec.

    Its identity includes `version` and, for npz, image-folder and python, `content`: the sha256 of
    what its files hold.
    """

    version: int
    train_images: int
    test_images: int | None
    classes: int
    channels: int
    height: int
    width: int
    normalize: Normalize
    augment: Augment = NO_AUGMENTATION
    size: Size | None = None
    test_folder: str | None = None
    content: str | None = None
    warning: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of an image in memory, (H, W, C)."""
        return self.height, self.width, self.channels

    @property
    def smallest_side(self) -> int:
        """The shortest side, in pixels, of the images that networks are trained or measured on."""
        side = min(self.height, self.width)
        return min(side, (self.size and self.size.test_crop) or side)


@dataclass(frozen=True)
class HumanSet:
    """A published set of human labels for the training images.

    `wrong` of them are not the true ones. `sha256` is that of the labels as little-endian int64,
    since the files that hold them were published in several versions.
    """

    wrong: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """A data set that specs can name.

    `reader` is the function that reads it, `MODULE:FUNCTION` below `dsdctl.data`. If images are
    `prepared`, it takes the root (and with `of_all_sizes` a ResizeAndCrop) and returns a
    RawDataset; otherwise it takes nothing and returns Arrays. Without a `reader` the data are an
    image folder, or an archive or function that the spec names.
    """

    facts: Facts | None = None
    """None if they depend on its files."""
    reader: str | None = None
    files: tuple[str, ...] = ()
    """Files or folders in its root, any of which shows that it is there; none if it has no root."""
    prepared: bool = True
    """Whether images are decoded or unpacked once for all runs."""
    of_all_sizes: bool = False
    """Whether images differ in size, and are brought to one size when they are prepared."""
    images_of: str | None = None
    """The data set whose images this one shares, if only its labels are its own."""
    class_targets: tuple[int, ...] = ()
    """The class into which asymmetric noise turns each class; empty if there is no such map."""
    human_file: str = ""
    """The file of its human labels."""
    human_labels: Mapping[HumanLabels, HumanSet] = field(default_factory=dict)
    """Its sets of human labels. A data set with any is always trained on one of them."""


CATALOG: dict[str, Record] = {
    "digits": Record(
        Facts(1, 1797, None, 10, 1, 8, 8, GREY), reader="sources:load_digits", prepared=False
    ),
    # The paper normalizes CIFAR with ImageNet's values, except for CIFAR-100N.
    "cifar10": Record(
        Facts(1, 50_000, 10_000, 10, 3, 32, 32, IMAGENET, FLIP_AND_CROP),
        reader="sources:cifar10",
        files=("cifar-10-batches-py", "cifar-10-python.tar.gz"),
        class_targets=CIFAR10_TARGETS,
    ),
    "cifar100": Record(
        Facts(1, 50_000, 10_000, 100, 3, 32, 32, IMAGENET, FLIP_AND_CROP),
        reader="sources:cifar100",
        files=("cifar-100-python", "cifar-100-python.tar.gz"),
        class_targets=CIFAR100_TARGETS,
    ),
    "cifar10n": Record(
        Facts(1, 50_000, 10_000, 10, 3, 32, 32, IMAGENET, FLIP_AND_CROP),
        images_of="cifar10",
        human_file="CIFAR-10_human.pt",
        human_labels={
            "aggre": HumanSet(
                4_505, "b3c3d486d22c3055756e7b1b1a0e98b099c1d68b771633023b0f76fa2e09ede6"
            ),
            "worse": HumanSet(
                20_104, "a64d887522cf6d8f4966912a1536ea2d890600929a8465a7f307cdca2501847b"
            ),
            "random1": HumanSet(
                8_617, "b5dc9007ae247a48ce267bec37a1310b0cd65ed73801ca7e595fb954902575a7"
            ),
            "random2": HumanSet(
                9_061, "1182c45d3a24636640fe1e3743b9566b6fabe86b2ed14f6b8216799e209a0d4e"
            ),
            "random3": HumanSet(
                8_820, "b51e116c617ded2c98be095ba8b3abae8adfa6caa54f7f6eedf50c7aed013d44"
            ),
        },
    ),
    "cifar100n": Record(
        Facts(1, 50_000, 10_000, 100, 3, 32, 32, CIFAR100, FLIP_AND_CROP),
        images_of="cifar100",
        human_file="CIFAR-100_human.pt",
        human_labels={
            "noisy": HumanSet(
                20_100, "4a1efd5da7a214b299cf6ac0bafe3f0d48c065b7aa2d40aa185d4711714bb311"
            )
        },
    ),
    "flowers102": Record(
        Facts(
            1, 1020, 6149, 102, 3, 128, 128, IMAGENET, NO_AUGMENTATION, Size(resize=156, crop=128)
        ),
        reader="sources:flowers102",
        files=("flowers-102",),
        of_all_sizes=True,
    ),
    "svhn": Record(
        Facts(1, 73_257, 26_032, 10, 3, 32, 32, SVHN),
        reader="sources:svhn",
        files=("train_32x32.mat",),
    ),
    "tiny-imagenet-200": Record(
        Facts(1, 100_000, 10_000, 200, 3, 64, 64, IMAGENET, FLIP_AND_CROP),
        reader="sources:tiny_imagenet",
        files=("tiny-imagenet-200",),
    ),
    "imagenet": Record(
        Facts(
            1, 1_281_167, 50_000, 1000, 3, 256, 256, IMAGENET, FLIP_AND_RESIZED_CROP,
            Size(resize=256, crop=256, test_crop=224), "val",
        ),
        files=("train",),
        of_all_sizes=True,
    ),
    "image-folder": Record(of_all_sizes=True),
    "npz": Record(prepared=False),
    "python": Record(),
}  # fmt: skip
"""All data sets. Where images differ in size, sizes are those of the default resize and crop."""

if TYPE_CHECKING:
    DatasetName = str
else:
    DatasetName = Literal[tuple(CATALOG)]


def images_record(name: str) -> tuple[str, Record]:
    """The name and record of the data set whose images `name` has: usually itself."""
    owner = CATALOG[name].images_of or name
    return owner, CATALOG[owner]
