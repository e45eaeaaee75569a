"""Where a level's training starts: a network initialised, loaded, pruned, rewound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dsdctl.errors import DriftError, WorkError
from dsdctl.keys import LevelIdentity, key_of, rewind_checkpoint
from dsdctl.ml.data import Data
from dsdctl.ml.masks import Masks, apply_masks, count_nonzero, prunable_weights, remove_lowest
from dsdctl.ml.scores import gradient_sample, gradient_scores, magnitude_scores, random_scores
from dsdctl.own.source import Source
from dsdctl.spec.shapes import kept_weights
from dsdctl.store.store import Store
from dsdctl.worker.inputs import measuring_normalisation
from dsdctl.worker.networks import new_network


@dataclass
class State:
    """A network before or after training, and the masks that it has; None while dense."""

    network: nn.Module
    masks: Masks | None


def starting_point(
    identity: LevelIdentity,
    store: Store,
    data: Data,
    device: torch.device,
    source: Source | None = None,
) -> State:
    """The network of a level as its training starts: initialised, or pruned from its parent.

    `source` is the code of a user's own network.
    """
    network = initial_network(identity, data, device, source=source)
    if identity.parent is None or identity.pruning is None:
        return State(network, None)
    _load_level(network, store, identity.parent)
    masks = _next_masks(identity, store, network, data)
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
    """The network as it is initialised; anew for a `level` that is re-initialised."""
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
    """Load a state_dict whose names and shapes must be the network's. Raises WorkError."""
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

    The level keeps the code of a user's own network. Raises DamagedError and WorkError, which calls
    it by `name`.
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
    """The network as it was early in level 0's training, or before it."""
    network = initial_network(identity, data, device, source=source)
    early = rewind_checkpoint(identity)
    if early is not None:
        _load_level(network, store, key_of(early))
    return network


def _next_masks(
    identity: LevelIdentity, store: Store, parent: nn.Module, data: Data
) -> Masks | None:
    """Prune the parent by one round; an unexpected count is an error, never passed on."""
    pruning = identity.pruning
    assert identity.parent is not None and pruning is not None
    if pruning.criterion == "none":
        return None
    scores = _scores(identity, parent, data)
    stored = store.levels.tensors(identity.parent, "masks")
    for name, score in scores.items():
        if name not in stored or stored[name].shape != score.shape:
            raise WorkError(f"level {identity.parent}: its masks do not belong to {name}")
    device = data.train.labels.device
    masks = {name: stored[name].to(device) for name in scores}
    ignored = {f"{layer}.weight" for layer in pruning.ignore}
    assert ignored <= masks.keys()
    ranked = [name for name in masks if name not in ignored]
    for names in [[name] for name in ranked] if pruning.scope == "layer" else [ranked]:
        old = {name: masks[name] for name in names}
        before, dense = count_nonzero(old), sum(mask.numel() for mask in old.values())
        kept = kept_weights(dense, before, pruning.fraction, pruning.sparsity)
        new = remove_lowest(scores, old, before - kept)
        if count_nonzero(new) != kept:
            raise DriftError(f"level {identity.level}: {count_nonzero(new)} weights, not {kept}")
        masks.update(new)
    return masks


def _scores(identity: LevelIdentity, parent: nn.Module, data: Data) -> dict[str, Tensor]:
    """What ranks the weights of a level's parent. Raises WorkError where they cannot be ranked."""
    pruning, draw = identity.pruning, {"seed": identity.seed, "level": identity.level}
    assert pruning is not None
    if pruning.criterion == "magnitude":
        return magnitude_scores(prunable_weights(parent))
    if pruning.criterion == "random":
        return random_scores(prunable_weights(parent), **draw)
    assert pruning.criterion == "gradient" and pruning.sample is not None
    train = data.train
    chosen = gradient_sample(len(train), pruning.sample, **draw).to(train.labels.device)
    images = measuring_normalisation(identity.images)(train.images[chosen])
    scores = gradient_scores(parent, images, train.labels[chosen])
    if not all(bool(score.isfinite().all()) for score in scores.values()):
        raise WorkError(f"level {identity.level}: the gradients to prune by are not finite")
    return scores
