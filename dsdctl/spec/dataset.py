"""The models of a spec's `dataset` and `label_noise`. Nothing here imports torch."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, JsonValue, Tag, model_validator

from dsdctl.spec.catalog import CATALOG, DatasetName, HumanLabels
from dsdctl.spec.fields import (
    PYTHON_NAME_PATTERN,
    Fraction,
    Model,
    PathText,
    Seed,
    string_or_mapping,
)
from dsdctl.spec.views import Augment, Normalize, Size


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


Validation = Annotated[
    Annotated[Literal["test"], Tag("<word>")] | Annotated[HoldOut, Tag("<mapping>")],
    Discriminator(string_or_mapping),
]


class Dataset(Model):
    """Which images, how they are split and what views of them are trained on."""

    name: DatasetName
    root: PathText = Field(
        "~/data", description="folder of the data set's files (all but npz, python)"
    )
    file: PathText | None = Field(
        None, description="the archive (npz), or the Python file that makes the data (python)"
    )
    make: Annotated[str, Field(pattern=PYTHON_NAME_PATTERN)] | None = Field(
        None,
        description="python: the function in it; it returns x_train, y_train and optionally "
        "x_test, y_test, or two torch Datasets",
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
    test: TestHoldOut | None = Field(
        None, description="holds out test images, for data without a test split"
    )
    split_seed: Seed = Field(0, description="seed of the held-out images' draw")

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        self._check_file()
        if self.test_folder is not None and self.name != "image-folder":
            raise ValueError("`test_folder` goes with `name: image-folder`")
        record = CATALOG[self.name]
        if self.size is not None and not record.of_all_sizes:
            allowed = ", ".join(name for name, one in CATALOG.items() if one.of_all_sizes)
            raise ValueError(
                f"{self.name} has images of one size; leave `size` out (allowed with: {allowed})"
            )
        if record.facts is None:  # its files tell whether there is a test split
            return self
        if record.facts.test_images is None and self.test is None:
            raise ValueError(f"{self.name} has no test split; give `test: {{fraction: ...}}`")
        if record.facts.test_images is not None and self.test is not None:
            raise ValueError(f"{self.name} brings a test set; leave `test` out")
        return self

    def _check_file(self) -> None:
        """`file`, `make` and `options` must go with `name`. Raises ValueError."""
        if self.name in ("npz", "python") and self.file is None:
            raise ValueError(f"`name: {self.name}` needs a `file`")
        if self.name not in ("npz", "python") and self.file is not None:
            raise ValueError("`file` goes with `name: npz` or `name: python`")
        if self.name == "python" and self.make is None:
            raise ValueError("`name: python` needs a `make`")
        for key in ("make", "options"):
            if self.name != "python" and getattr(self, key) is not None:
                raise ValueError(f"`{key}` goes with `name: python`")


class LabelNoise(Model):
    """Training labels that are replaced by other ones.

    symmetric      another class, drawn uniformly, so `rate` is the true flip rate
    symmetric-all  any class, drawn uniformly, the true one included (He et al. 2022)
    asymmetric     the class that it is most easily mistaken for (cifar10, cifar100); a class
                   without one keeps its label, though it counts as selected
    pair-flip      the next class, and the first one after the last
    human          labels that people gave (cifar10n, cifar100n); they have no rate and no seed
    """

    kind: Literal["symmetric", "symmetric-all", "asymmetric", "pair-flip", "human"] = "symmetric"
    rate: float | None = Field(
        None, ge=0, le=1, description="share of the labels that is selected: int(N x rate) of them"
    )
    labels: HumanLabels | None = Field(
        None, description="human: which set of labels; cifar100n has only `noisy`"
    )
    seed: Seed | Literal["per-trajectory"] = Field(
        0, description="one draw for all seeds, or one per trajectory (needs paired teachers)"
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
