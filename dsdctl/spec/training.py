"""The models of a spec's `training`. Nothing here imports torch."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from dsdctl.spec.fields import TAKE_AWAY, Extended, Precision, option_of_kind

Rate = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Extended):
    """torch's SGD or AdamW, whose weight decay is decoupled from the gradient.

    Weight decay is on all parameters, BatchNorm and biases included.
    """

    OMITTED: ClassVar = frozenset({"kind", "momentum", "nesterov", "betas", "eps"})

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0, le=1000, description="learning rate; must be given for adamw")
    momentum: Rate | None = Field(None, validate_default=True, description="sgd: 0.9 unless given")
    nesterov: bool = Field(False, description="sgd: Nesterov's momentum")
    betas: tuple[Rate, Rate] | None = Field(
        None, validate_default=True, description="adamw: [0.9, 0.999] unless given"
    )
    eps: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, validate_default=True, description="adamw: 1e-8 unless given"
    )
    weight_decay: float = Field(1e-4, ge=0, le=1, description="on all parameters")

    @field_validator("momentum")
    @classmethod
    def _momentum(cls, momentum: float | None, info: ValidationInfo) -> float | None:
        return option_of_kind("sgd", momentum, 0.9, info)

    @field_validator("betas")
    @classmethod
    def _betas(
        cls, betas: tuple[float, float] | None, info: ValidationInfo
    ) -> tuple[float, float] | None:
        return option_of_kind("adamw", betas, (0.9, 0.999), info)

    @field_validator("eps")
    @classmethod
    def _eps(cls, eps: float | None, info: ValidationInfo) -> float | None:
        return option_of_kind("adamw", eps, 1e-8, info)

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("`nesterov` goes with `kind: sgd` and a momentum above 0")
        if self.kind == "adamw" and "lr" not in self.model_fields_set:
            raise ValueError("`kind: adamw` needs an `lr`; 0.001 is torch's default")
        return self


class Schedule(Extended):
    """The learning rate by epoch, and by batch during the warm-up.

    `step` multiplies it by `gamma` at each of the epochs in `milestones`, `cosine` takes it down
    along half a cosine, `constant` leaves it as it is.
    """

    OMITTED: ClassVar = frozenset({"kind", "warmup", "milestones", "gamma", "min_lr_factor"})

    kind: Literal["step", "cosine", "constant"] = "step"
    warmup: int = Field(
        0, ge=0, description="epochs over which the rate rises linearly, batch by batch"
    )
    milestones: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(max_length=100)] | None = (
        Field(
            None,
            validate_default=True,
            description="step: epochs at which the rate falls, counted from 0",
        )
    )
    gamma: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, validate_default=True, description="step: factor at each milestone; 0.1 unless given"
    )
    min_lr_factor: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        validate_default=True,
        description="cosine: final rate as a fraction of `lr`; 0 unless given",
    )

    @field_validator("milestones")
    @classmethod
    def _milestones(
        cls, milestones: tuple[int, ...] | None, info: ValidationInfo
    ) -> tuple[int, ...] | None:
        if milestones and list(milestones) != sorted(set(milestones)):
            raise ValueError(f"must increase, but is {list(milestones)}")
        return option_of_kind("step", milestones, (), info)

    @field_validator("gamma")
    @classmethod
    def _gamma(cls, gamma: float | None, info: ValidationInfo) -> float | None:
        return option_of_kind("step", gamma, 0.1, info)

    @field_validator("min_lr_factor")
    @classmethod
    def _min_lr_factor(cls, factor: float | None, info: ValidationInfo) -> float | None:
        return option_of_kind("cosine", factor, 0.0, info)


class Loss(Extended):
    """The loss against the labels: cross-entropy, or one that is more robust to label noise.

    `gce` is (1 - p^q) / q, `sce` alpha x cross-entropy + beta x 4 (1 - p), p being the probability
    of the label.
    """

    OMITTED: ClassVar = frozenset({"q", "alpha", "beta"})

    kind: Literal["cross-entropy", "gce", "sce"] = "cross-entropy"
    q: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, validate_default=True, description="gce: 0.7 unless given"
    )
    alpha: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, validate_default=True, description="sce: 0.1 unless given"
    )
    beta: Annotated[float, Field(ge=0, le=1000)] | None = Field(
        None, validate_default=True, description="sce: 1 unless given"
    )

    @field_validator("q")
    @classmethod
    def _q(cls, q: float | None, info: ValidationInfo) -> float | None:
        return option_of_kind("gce", q, 0.7, info)

    @field_validator("alpha")
    @classmethod
    def _alpha(cls, alpha: float | None, info: ValidationInfo) -> float | None:
        return option_of_kind("sce", alpha, 0.1, info)

    @field_validator("beta")
    @classmethod
    def _beta(cls, beta: float | None, info: ValidationInfo) -> float | None:
        return option_of_kind("sce", beta, 1.0, info)

    @model_validator(mode="after")
    def _is_some_loss(self) -> Self:
        if self.kind == "sce" and not self.alpha and not self.beta:
            raise ValueError("`alpha` or `beta` must be above 0")
        return self


class Training(Extended):
    """How each level is trained: a fresh optimizer and the full schedule every time."""

    OMITTED: ClassVar = frozenset({"clip_norm", "loss", "label_smoothing"})

    epochs: int = Field(ge=1, le=100_000, description="epochs of every level")
    batch_size: int = Field(ge=2, le=1_000_000, description="images; a smaller last batch is kept")
    optimizer: Optimizer = Field(Optimizer(), description="fresh for each level")
    schedule: Schedule = Field(Schedule(), description="of the learning rate, over all epochs")
    clip_norm: Annotated[float, Field(gt=0, le=1e9)] | None = Field(
        None, description="largest l2 norm of all gradients together; default: no clipping"
    )
    loss: Loss = Field(Loss(), description="against the labels, without the teacher's term")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="of the cross-entropy; the teacher's term is not smoothed"
    )
    precision: Precision = Field(
        "fp32", description="bf16: autocast with fp32 weights; tf32: TensorFloat-32 on GPUs"
    )

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        late = [m for m in self.schedule.milestones or () if m >= self.epochs]
        if late:
            raise ValueError(f"milestone {late[0]} is not within the {self.epochs} epochs")
        if self.schedule.warmup >= self.epochs:
            raise ValueError(
                f"a warm-up of {self.schedule.warmup} epochs leaves none of the {self.epochs} "
                f"(allowed: at most {self.epochs - 1})"
            )
        if self.label_smoothing and self.loss.kind != "cross-entropy":
            raise ValueError(
                f"`label_smoothing` goes with `loss: {{kind: cross-entropy}}`, not with "
                f"{self.loss.kind}; {TAKE_AWAY}"
            )
        return self
