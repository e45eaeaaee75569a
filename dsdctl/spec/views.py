"""The models of a spec's image size, augmentation and normalization."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from dsdctl.spec.fields import Fraction, Model


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


class Normalize(Model):
    """Per-channel mean and standard deviation of pixels scaled to [0, 1]."""

    mean: tuple[float, ...] = Field(min_length=1, max_length=16)
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1, max_length=16)

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"has {len(self.mean)} means but {len(self.std)} deviations")
        return self
