"""After training: check that masks were kept, and measure the level's results."""

import math
from collections.abc import Mapping

from dsdctl.errors import DriftError
from dsdctl.keys import LevelIdentity
from dsdctl.ml.data import Data
from dsdctl.ml.masks import count_nonzero, dense_masks, prunable_weights
from dsdctl.ml.measure import measure
from dsdctl.ml.train import Epoch
from dsdctl.own.source import Source
from dsdctl.results import Measured
from dsdctl.worker.inputs import measuring_normalization
from dsdctl.worker.starting_point import State, initial_network


def measured(
    identity: LevelIdentity, state: State, data: Data, last: Epoch, source: Source | None
) -> Measured:
    """The result of a level after its `last` epoch."""
    normalization = measuring_normalization(identity.images)
    measurement = measure(state.network, data, normalization, identity.training.precision)
    weights = prunable_weights(state.network)
    masks = state.masks or dense_masks(weights)
    density = {name: int(mask.count_nonzero()) / mask.numel() for name, mask in masks.items()}
    total = sum(mask.numel() for mask in masks.values())
    nonzero = count_nonzero(masks)
    return Measured(
        level=identity.level,
        train_loss=last.loss,
        total_weights=total,
        nonzero_weights=nonzero,
        sparsity=1 - nonzero / total,
        density_per_layer=density,
        learning_distance=_learning_distance(identity, state, data, source),
        warnings=_warnings(density, measurement.entropy_bits_per_layer),
        **vars(measurement),
    )


def _warnings(density: Mapping[str, float], bits: Mapping[str, float]) -> tuple[str, ...]:
    unseen = () if bits else ("no ReLU or GELU module seen: entropy of 0 layers",)
    return (*(f"{name} has no weight left" for name, d in density.items() if d == 0), *unseen)


def check_masked(identity: LevelIdentity, state: State) -> None:
    """Raises DriftError if a removed weight is no longer zero."""
    weights = prunable_weights(state.network)
    for name, mask in (state.masks or {}).items():
        if bool(weights[name].detach()[~mask].any()):
            raise DriftError(f"level {identity.level}: removed weights of {name} are not zero")


def _learning_distance(
    identity: LevelIdentity, state: State, data: Data, source: Source | None
) -> float:
    """l2 distance of the remaining Conv2d and Linear weights from their initialization."""
    weights = prunable_weights(state.network)
    reinit = identity.pruning is not None and identity.pruning.retrain.mode == "reinit"
    level = identity.level if reinit else 0
    device = next(iter(weights.values())).device
    initial = prunable_weights(initial_network(identity, data, device, level, source))
    squares = 0.0
    for name, weight in weights.items():
        difference = (weight - initial[name]).detach().double()
        if state.masks is not None:
            difference = difference * state.masks[name]
        squares += float(difference.square().sum())
    return math.sqrt(squares)
