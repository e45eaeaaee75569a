"""The models of a spec's `pruning`. Nothing here imports torch."""

import itertools
import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from dsdctl.spec.fields import TAKE_AWAY, Fraction, Model, Text, string_or_mapping

MAX_ROUNDS = 500
DEFAULT_ROUNDS = 29
DEFAULT_FRACTION = 0.2
DEFAULT_SAMPLE = 500

Criterion = Literal["magnitude", "random", "gradient", "snip", "synflow", "none"]
RetrainMode = Literal["continue", "rewind", "reinit"]


class Retrain(Model):
    """What a pruned network is retrained from; always with a fresh optimizer and all epochs."""

    mode: RetrainMode = Field(
        description="start from the last weights, earlier ones of level 0, or new ones per level"
    )
    lr_scale: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="continue: factor of the learning rate in every epoch"
    )
    epoch: Annotated[int, Field(ge=0)] | None = Field(
        None, description="rewind: to level 0 after this many epochs; default: initialization"
    )
    iteration: Annotated[int, Field(ge=0)] | None = Field(
        None, description="rewind: to level 0 after this many batches"
    )

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        given = [
            key for key in ("lr_scale", "epoch", "iteration") if getattr(self, key) is not None
        ]
        for key in given:
            mode = "continue" if key == "lr_scale" else "rewind"
            if self.mode != mode:
                raise ValueError(f"`{key}` goes with `mode: {mode}`, not with {self.mode}")
        if {"epoch", "iteration"} <= set(given):
            raise ValueError("give `epoch` or `iteration`, not both")
        return self


_IN_FULL: dict[RetrainMode, Retrain] = {
    "continue": Retrain(mode="continue"),
    "rewind": Retrain(mode="rewind"),
    "reinit": Retrain(mode="reinit"),
}

AT_INITIALIZATION: tuple[Criterion, ...] = ("snip", "synflow")
"""Criteria that score the initial weights of level 0 at every level."""

_OPTIONS: dict[str, tuple[Criterion, ...]] = {
    "sample": ("gradient", "snip"),
    "iterations": ("synflow",),
}
"""Keys that are allowed with some criteria only."""

RetrainField = Annotated[
    Annotated[RetrainMode, Tag("<word>")] | Annotated[Retrain, Tag("<mapping>")],
    Discriminator(string_or_mapping),
]


class Pruning(Model):
    """Which weights each round prunes, how many rounds there are, and how the rest is retrained."""

    criterion: Criterion = Field(
        "magnitude",
        description="lowest |weight|, any, or lowest |weight * gradient| go first; `snip` and "
        "`synflow` score the initial weights at every level; `none` trains the levels without "
        "pruning, as a control",
    )
    scope: Literal["global", "layer"] = Field(
        "global", description="rank the weights of all layers together, or layer by layer"
    )
    fraction: Fraction | None = Field(
        None, description="share of the remaining weights that each round prunes; 0.2 unless given"
    )
    levels: Annotated[int, Field(ge=0, le=MAX_ROUNDS)] | None = Field(
        None, description="pruning rounds after level 0; 29 unless until_sparsity is given"
    )
    until_sparsity: Fraction | None = Field(
        None, description="instead of levels: prune until the nominal sparsity is at least this"
    )
    # Not strict: after a BeforeValidator (below), pydantic does not accept a list for a tuple.
    sparsities: Annotated[tuple[Fraction, ...], Field(strict=False, min_length=1)] | None = Field(
        None,
        description="instead of fraction and levels: sparsity of each level; [0.9] is one-shot",
    )
    sample: Annotated[int, Field(ge=1)] | None = Field(
        None, description="gradient, snip: training images for the scores; 500 unless given"
    )
    iterations: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None,
        description="synflow: steps of a round; each scores the remaining weights again; "
        "1 unless given",
    )
    # Not strict, as above. Whether such layers exist is checked once the network is known.
    ignore: Annotated[tuple[Text, ...], Field(strict=False, max_length=1000)] = Field(
        (),
        description="layers that are not pruned: `classifier`, `features.0`, `first` or `last`; "
        "fraction, until_sparsity and sparsities are then of the weights in the others",
    )
    retrain: RetrainField = Field(
        "continue",
        description="from the last weights, the original initialization, or a new one per level",
    )

    @field_validator("sparsities")
    @classmethod
    def _increasing(cls, sparsities: tuple[float, ...] | None) -> tuple[float, ...] | None:
        for one, other in itertools.pairwise(sparsities or ()):
            if other <= one:
                raise ValueError(f"must increase, but {other:g} follows {one:g}")
        return sparsities

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.sparsities is not None:
            for key in ("fraction", "levels", "until_sparsity"):
                if getattr(self, key) is not None:
                    raise ValueError(f"give `sparsities` or `{key}`, not both; {TAKE_AWAY}")
        if self.until_sparsity is not None and self.levels is not None:
            raise ValueError(f"give `levels` or `until_sparsity`, not both; {TAKE_AWAY}")
        if self.criterion == "none" and (self.until_sparsity or self.sparsities):
            raise ValueError("without pruning no sparsity is ever reached; give `levels`")
        return self

    @model_validator(mode="after")
    def _goes_with_the_criterion(self) -> Self:
        for key, criteria in _OPTIONS.items():
            if getattr(self, key) is not None and self.criterion not in criteria:
                raise ValueError(
                    f"`{key}` goes with `criterion: {' or '.join(criteria)}`, "
                    f"not with {self.criterion}"
                )
        return self

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.rounds > MAX_ROUNDS:
            raise ValueError(f"takes {self.rounds} levels (allowed: at most {MAX_ROUNDS})")
        return self

    @property
    def rounds(self) -> int:
        """Prune rounds after level 0."""
        if self.sparsities is not None:
            return len(self.sparsities)
        if self.until_sparsity is None:
            return DEFAULT_ROUNDS if self.levels is None else self.levels
        # The least k with 1 - (1 - fraction)^k >= until_sparsity, but for rounding.
        fraction = DEFAULT_FRACTION if self.fraction is None else self.fraction
        rounds = math.log1p(-self.until_sparsity) / math.log1p(-fraction)
        return math.ceil(min(rounds, 1e18) - 1e-9)  # tiny fractions give infinity

    def share(self, level: int) -> tuple[float | None, float | None]:
        """What round `level` (from 1) prunes: (fraction of the remaining weights, None), or (None,
        the sparsity to reach); (None, None) without pruning."""
        if self.criterion == "none":
            return None, None
        if self.sparsities is not None:
            return None, self.sparsities[level - 1]
        return (DEFAULT_FRACTION if self.fraction is None else self.fraction), None

    @property
    def gradient_sample(self) -> int | None:
        """How many training images the criterion's gradient is taken on; None if it has none."""
        return (self.sample or DEFAULT_SAMPLE) if self.criterion in _OPTIONS["sample"] else None

    @property
    def retraining(self) -> Retrain:
        """`retrain` as a mapping; a word is short for its mode."""
        return self.retrain if isinstance(self.retrain, Retrain) else _IN_FULL[self.retrain]


def _word_to_criterion(value: Any) -> Any:
    """`pruning: none` is short for `pruning: {criterion: none}`."""
    return {"criterion": "none"} if value == "none" else value


PruningField = Annotated[Pruning, BeforeValidator(_word_to_criterion)]
