"""The model of a spec's distillation loss. Nothing here imports torch."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from dsdctl.spec.fields import TAKE_AWAY, Extended, option_of_kind

DEFAULT_TEMPERATURE = 10.0

Weight = Annotated[float, Field(ge=0, le=1000)]


class DistillationLoss(Extended):
    """(1 - alpha) x the loss against labels + alpha x what is to be learnt from the teacher.

    `kl` is temperature^2 KL of the softened classes (DSD2, eq. 2), `mse` the squared error of the
    logits, `dkd` the KL taken apart, also times temperature^2.
    """

    OMITTED: ClassVar = frozenset({"kind", "target_weight", "nontarget_weight"})

    kind: Literal["kl", "mse", "dkd"] = Field(
        "kl", description="what is distilled: soft classes, logits, or decoupled soft classes"
    )
    alpha: float = Field(0.8, ge=0, le=1, description="weight of the teacher's term")
    temperature: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None,
        validate_default=True,
        description="kl, dkd: both networks' logits are divided by it; 10 unless given",
    )
    target_weight: Weight | None = Field(
        None,
        validate_default=True,
        description="dkd: weight of the label's class against the others; 1 unless given",
    )
    nontarget_weight: Weight | None = Field(
        None, validate_default=True, description="dkd: weight of the other classes; 8 unless given"
    )

    @field_validator("temperature")
    @classmethod
    def _temperature(cls, temperature: float | None, info: ValidationInfo) -> float | None:
        if info.data.get("kind") != "mse":
            return DEFAULT_TEMPERATURE if temperature is None else temperature
        if temperature is not None:
            raise ValueError(f"goes with `kind: kl` or `dkd`, not with mse; {TAKE_AWAY}")
        return None

    @field_validator("target_weight")
    @classmethod
    def _target_weight(cls, weight: float | None, info: ValidationInfo) -> float | None:
        return option_of_kind("dkd", weight, 1.0, info)

    @field_validator("nontarget_weight")
    @classmethod
    def _nontarget_weight(cls, weight: float | None, info: ValidationInfo) -> float | None:
        return option_of_kind("dkd", weight, 8.0, info)
