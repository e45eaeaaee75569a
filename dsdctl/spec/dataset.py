"""The models of a spec's `dataset` and `label_noise`. Nothing here imports torch."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from dsdctl.spec.fields import (
    PYTHON_NAME_PATTERN,
    Fraction,
    Model,
    PathText,
    Seed,
    string_or_mapping,
)


class Augment(Model):
    """Random views of the training images, drawn again each epoch."""

    flip: bool = Field(False, description="flip horizontally with probability one half")
    crop: int = Field(0, ge=0, le=32, description="zero padding in pixels, then a random crop")
    resized_crop: Fraction | None = Field(
        None,
        description="a random crop of at least this share of the image, resized to the whole",
    )

    @model_validator(mode="after")
    def _one_crop(self) -> Self:
        if self.crop and self.resized_crop is not None:
            raise ValueError("give `crop` or `resized_crop`, not both")
        return self


class Size(Model):
    """What is kept of images of all sizes: the shorter side resized, then the centre cut out."""

    resize: int = Field(ge=1, le=2048, description="pixels of the shorter side")
    crop: int = Field(ge=1, le=2048, description="side in pixels of the centre that is kept")
    test_crop: int | None = Field(
        None, ge=1, description="side of the centre on which is measured; default: all of it"
    )

    @model_validator(mode="after")
    def _nested(self) -> Self:
        if self.crop > self.resize:
            raise ValueError(f"cannot cut {self.crop} pixels out of {self.resize}")
        if self.test_crop is not None and self.test_crop > self.crop:
            raise ValueError(f"cannot cut {self.test_crop} pixels out of {self.crop}")
        return self


class HoldOut(Model):
    """Validation images held out of the training images."""

    fraction: Fraction = Field(description="share of the training images")
    labels: Literal["noisy", "clean"] = Field(
        "noisy", description="whether the held-out labels carry the label noise too"
    )


class TestHoldOut(Model):
    """Test images held out where a data set has no test split; their labels stay clean."""

    __test__ = False  # not a test case, whatever its name says to pytest

    fraction: Fraction = Field(description="share of all images")


class Normalize(Model):
    """Per-channel mean and standard deviation of pixels scaled to [0, 1]."""

    mean: tuple[float, ...] = Field(min_length=1, max_length=16)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"has {len(self.mean)} means but {len(self.std)} deviations")
        return self


Validation = Annotated[
    Annotated[Literal["test"], Tag("<word>")] | Annotated[HoldOut, Tag("<mapping>")],
    Discriminator(string_or_mapping),
]

DatasetName = Literal[
    "digits",
    "cifar10",
    "cifar100",
    "cifar10n",
    "cifar100n",
    "flowers102",
    "svhn",
    "tiny-imagenet-200",
    "imagenet",
    "image-folder",
    "npz",
    "python",
]

BRINGS_NO_TEST_SET = ("digits",)
MAY_BRING_NO_TEST_SET = ("image-folder", "npz", "python")
OF_ALL_SIZES = ("flowers102", "imagenet", "image-folder")
"""Data sets whose images are cut to one size when they are prepared."""
LOADED_AS_THEY_ARE = ("digits", "npz")
"""Data sets that need no preparation."""
IMAGES_OF: dict[str, str] = {"cifar10n": "cifar10", "cifar100n": "cifar100"}
"""Data sets that are another one's images with labels of their own."""


class Dataset(Model):
    """Which images, how they are split and what views of them are trained on."""

    name: DatasetName
    root: PathText = Field(
        "~/data", description="folder of the data set's files (all but npz, python)"
    )
    file: PathText | None = Field(
        None, description="the archive (npz), or the Python file that gives the data (python)"
    )
    make: Annotated[str, Field(pattern=PYTHON_NAME_PATTERN)] | None = Field(
        None,
        description="python: the function in it; it gives x_train, y_train, maybe with x_test, "
        "y_test, or two torch Datasets",
    )
    options: dict[str, JsonValue] | None = Field(
        None, description="python: keyword arguments of the function"
    )
    test_folder: Literal["val", "test"] | None = Field(
        None, description="folder of the test images (image-folder); default: the one that is there"
    )
    size: Size | None = Field(
        None,
        description="flowers102, imagenet, image-folder; default: the data set's own",
    )
    augment: Augment | None = Field(None, description="default: the data set's own")
    normalize: Normalize | None = Field(None, description="default: the data set's own")
    validation: Validation = Field(
        "test", description="`test` (the paper's protocol) or a share of the training images"
    )
    test: TestHoldOut | None = Field(None, description="only where there is no test set")
    split_seed: Seed = 0

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        self._check_file()
        if self.test_folder is not None and self.name != "image-folder":
            raise ValueError("`test_folder` goes with `name: image-folder`")
        if self.size is not None and self.name not in OF_ALL_SIZES:
            raise ValueError(
                f"{self.name} has images of one size; leave `size` out "
                f"(allowed with: {', '.join(OF_ALL_SIZES)})"
            )
        if self.name in BRINGS_NO_TEST_SET and self.test is None:
            raise ValueError(f"{self.name} has no test split; give `test: {{fraction: ...}}`")
        if self.name not in BRINGS_NO_TEST_SET + MAY_BRING_NO_TEST_SET and self.test is not None:
            raise ValueError(f"{self.name} brings a test set; leave `test` out")
        return self

    def _check_file(self) -> None:
        """What is in one file must be named, and nothing else. Raises ValueError."""
        if self.name in ("npz", "python") and self.file is None:
            raise ValueError(f"`name: {self.name}` needs a `file`")
        if self.name not in ("npz", "python") and self.file is not None:
            raise ValueError("`file` goes with `name: npz` or `name: python`")
        if self.name == "python" and self.make is None:
            raise ValueError("`name: python` needs a `make`")
        for key in ("make", "options"):
            if self.name != "python" and getattr(self, key) is not None:
                raise ValueError(f"`{key}` goes with `name: python`")


HumanLabels = Literal["aggre", "worse", "random1", "random2", "random3", "noisy"]

HUMAN_LABELS: dict[str, tuple[HumanLabels, ...]] = {
    "cifar10n": ("aggre", "worse", "random1", "random2", "random3"),
    "cifar100n": ("noisy",),
}
"""The sets of human labels that were published for a data set's training images."""


class LabelNoise(Model):
    """Training labels that are replaced by other ones.

    symmetric      another class, drawn uniformly; `rate` is thus the true flip rate
    symmetric-all  any class, drawn uniformly, the true one included (He et al. 2022)
    asymmetric     the class that it is most easily taken for (cifar10, cifar100); a class that is
                   taken for none keeps its label, though it counts as selected
    pair-flip      the next class, and the first one after the last
    human          labels that people gave (cifar10n, cifar100n); they have no rate and no seed
    """

    kind: Literal["symmetric", "symmetric-all", "asymmetric", "pair-flip", "human"] = "symmetric"
    rate: float | None = Field(
        None, ge=0, le=1, description="share of the labels that is selected, exactly int(N rate)"
    )
    labels: HumanLabels | None = Field(
        None, description="which set of human labels; cifar100n has one only, `noisy`"
    )
    seed: Seed | Literal["per-trajectory"] = Field(
        0, description="one draw for all seeds, or a draw per trajectory (with paired teachers)"
    )

    @model_validator(mode="after")
    def _drawn_or_given(self) -> Self:
        if self.kind != "human":
            if self.rate is None:
                raise ValueError(f"`rate` is missing ({self.kind} noise is drawn at a rate)")
            if self.labels is not None:
                raise ValueError("`labels` goes with `kind: human`")
        elif self.rate is not None or self.seed != 0:
            raise ValueError("human labels are not drawn; leave `rate` and `seed` out")
        return self
