"""The starting point of a level: a network initialized, or loaded, pruned and rewound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsdctl.errors import DriftError, WorkError
from dsdctl.keys import LevelIdentity, key_of, rewind_checkpoint
from dsdctl.ml.data import Data
from dsdctl.ml.masks import Masks, apply_masks, count_nonzero, prunable_weights, remove_lowest
from dsdctl.ml.scores import (
    gradient_sample,
    gradient_scores,
    magnitude_scores,
    random_scores,
    synflow_scores,
)
from dsdctl.own.source import Source
from dsdctl.spec.network import CodeNetwork
from dsdctl.spec.pruning import AT_INITIALIZATION
from dsdctl.spec.shapes import kept_on_the_way, kept_weights
from dsdctl.store.store import Store
from dsdctl.worker.inputs import measuring_normalization
from dsdctl.worker.networks import new_network


@dataclass
class State:
    """A network before or after training, and its masks; None while it is dense."""

    network: nn.Module
    masks: Masks | None


def starting_point(
    identity: LevelIdentity,
    store: Store,
    data: Data,
    device: torch.device,
    source: Source | None = None,
) -> State:
    """The network of a level as its training starts: initialized, or pruned from its parent.

    `source` is the code of a user's own network. Raises DamagedError, WorkError and DriftError.
    """
    network = initial_network(identity, data, device, source=source)
    if identity.parent is None or identity.pruning is None:
        return State(network, None)
    _load_level(network, store, identity.parent)
    masks = _next_masks(identity, store, network, data, source)
    match identity.pruning.retrain.mode:
        case "rewind":
            network = _rewound(identity, store, data, device, source)
        case "reinit":
            network = initial_network(identity, data, device, identity.level, source)
    if masks is not None:
        apply_masks(prunable_weights(network), masks)
    return State(network, masks)


def initial_network(
    identity: LevelIdentity,
    data: Data,
    device: torch.device,
    level: int = 0,
    source: Source | None = None,
) -> nn.Module:
    """The network with its initial weights, on `device`; `level` if it is re-initialized there."""
    network = new_network(
        identity.network,
        data.train.images.shape[1:],
        data.classes,
        identity.seed,
        level,
        source=source,
    )
    return network.to(device)


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load a state_dict into `network`; `source` names it in messages.

    Raises WorkError if a name, shape or dtype differs, or a value is not finite.
    """
    expected = network.state_dict()
    for name in sorted(expected.keys() ^ weights.keys()):
        problem = "is missing" if name in expected else "is not one of the network's"
        raise WorkError(f"{source}: tensor {name} {problem}")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[name].shape)}"
            raise WorkError(f"{source}: tensor {name} has shape {shapes}")
        if tensor.dtype != expected[name].dtype:
            raise WorkError(
                f"{source}: tensor {name} is {tensor.dtype}, not {expected[name].dtype}"
            )
        if not bool(tensor.isfinite().all()):
            raise WorkError(f"{source}: tensor {name} holds values that are not finite")
    network.load_state_dict(weights)


def stored_network(
    store: Store, key: str, shape: Sequence[int], classes: int, name: str
) -> nn.Module:
    """The network of a finished level for images of `shape` (H, W, C), on the CPU and in eval mode.

    A user's own network is built by the code that is kept with the level. Raises DamagedError, and
    WorkError that calls the network `name`.
    """
    choice, source = store.levels.identity(key).network, store.levels.source(key)
    network = new_network(choice, shape, classes, source=source)
    load_weights(network, store.levels.tensors(key, "weights"), name)
    return network.eval()


def _load_level(network: nn.Module, store: Store, key: str) -> None:
    load_weights(network, store.levels.tensors(key, "weights"), f"level {key}")


def _rewound(
    identity: LevelIdentity,
    store: Store,
    data: Data,
    device: torch.device,
    source: Source | None,
) -> nn.Module:
    """The network with the weights of the rewind checkpoint, or the initial ones."""
    network = initial_network(identity, data, device, source=source)
    checkpoint = rewind_checkpoint(identity)
    if checkpoint is not None:
        _load_level(network, store, key_of(checkpoint))
    return network


def _next_masks(
    identity: LevelIdentity,
    store: Store,
    parent: nn.Module,
    data: Data,
    source: Source | None,
) -> Masks | None:
    """The masks after one more prune round; None without pruning.

    Raises DriftError if the number of remaining weights is not the expected one.
    """
    pruning = identity.pruning
    assert pruning is not None
    if pruning.criterion == "none":
        return None
    network = parent
    if pruning.criterion in AT_INITIALIZATION:
        network = initial_network(identity, data, data.train.labels.device, source=source)
    before = _parents_masks(identity, store, network)
    masks = before
    for iteration in range(1, pruning.iterations + 1):
        scores = _scores(identity, network, masks, data)
        masks = _pruned(identity, scores, before, masks, iteration / pruning.iterations)
    return masks


def _parents_masks(identity: LevelIdentity, store: Store, network: nn.Module) -> Masks:
    """The masks of a level's parent, in the order of the network's layers. Raises WorkError."""
    assert identity.parent is not None
    stored = store.levels.tensors(identity.parent, "masks")
    masks: Masks = {}
    for name, weight in prunable_weights(network).items():
        if name not in stored or stored[name].shape != weight.shape:
            raise WorkError(f"level {identity.parent}: its masks do not belong to {name}")
        masks[name] = stored[name].to(weight.device)
    return masks


def _pruned(
    identity: LevelIdentity,
    scores: Mapping[str, Tensor],
    before: Masks,
    masks: Masks,
    share: float,
) -> Masks:
    """The masks after a fraction `share` of the round's iterations.

    `before` are the masks before the round, `masks` the current ones.
    """
    pruning, masks = identity.pruning, dict(masks)
    assert pruning is not None
    ignored = {f"{layer}.weight" for layer in pruning.ignore}
    assert ignored <= masks.keys()
    ranked = [name for name in masks if name not in ignored]
    for names in [[name] for name in ranked] if pruning.scope == "layer" else [ranked]:
        now = {name: masks[name] for name in names}
        first = count_nonzero({name: before[name] for name in names})
        dense = sum(mask.numel() for mask in now.values())
        kept = kept_weights(dense, first, pruning.fraction, pruning.sparsity)
        if share < 1:
            kept = kept_on_the_way(first, kept, share)
        new = remove_lowest(scores, now, count_nonzero(now) - kept)
        if count_nonzero(new) != kept:
            raise DriftError(f"level {identity.level}: {count_nonzero(new)} weights, not {kept}")
        masks.update(new)
    return masks


def _scores(
    identity: LevelIdentity, network: nn.Module, masks: Masks, data: Data
) -> dict[str, Tensor]:
    """The scores by which the weights of a network under `masks` are ranked.

    Raises WorkError if they are not finite.
    """
    pruning, draw = identity.pruning, {"seed": identity.seed, "level": identity.level}
    assert pruning is not None
    match pruning.criterion:
        case "magnitude":
            return magnitude_scores(prunable_weights(network))
        case "random":
            return random_scores(prunable_weights(network), **draw)
        case "synflow":
            images = _normalized(identity, data, torch.zeros(1, dtype=torch.int64))
            scores, what = _flow(identity, network, images, masks), "flow"
        case _:
            assert pruning.sample is not None
            if pruning.criterion in AT_INITIALIZATION:
                draw["level"] = 0  # the same images for all levels
            chosen = gradient_sample(len(data.train), pruning.sample, **draw)
            images = _normalized(identity, data, chosen)
            labels = data.train.labels[chosen.to(data.train.labels.device)]
            scores, what = gradient_scores(network, images, labels), "gradients"
    if not all(bool(score.isfinite().all()) for score in scores.values()):
        raise WorkError(f"level {identity.level}: the {what} to prune by are not finite")
    return scores


def _flow(
    identity: LevelIdentity, network: nn.Module, images: Tensor, masks: Masks
) -> dict[str, Tensor]:
    try:
        return synflow_scores(network, images, masks)
    except RuntimeError as error:
        if not isinstance(identity.network, CodeNetwork):
            raise
        raise WorkError(
            f"level {identity.level}: synflow runs the network in float64, which it refuses: "
            f"{error} (let it make its tensors in the dtype of the images)"
        ) from error


def _normalized(identity: LevelIdentity, data: Data, indices: Tensor) -> Tensor:
    """Training images at `indices` (B,), without augmentation: float32 (B, C, H, W)."""
    chosen = indices.to(data.train.labels.device)
    return measuring_normalization(identity.images)(data.train.images[chosen])
