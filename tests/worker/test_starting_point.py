"""Where levels start: pruned as torch.nn.utils.prune does, from the weights that the mode names."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import only_trajectory
from torch import Tensor, nn
from torch.nn.utils import prune

from dsdctl.errors import WorkError
from dsdctl.keys import LevelIdentity, PruningIdentity, key_of
from dsdctl.ml.data import Data
from dsdctl.ml.masks import Masks, count_nonzero, dense_masks, prunable_weights
from dsdctl.ml.networks.network import Network
from dsdctl.ml.scores import gradient_sample, gradient_scores, random_scores, synflow_scores
from dsdctl.ml.views import Normalization
from dsdctl.results import Diverged, Environment
from dsdctl.spec.shapes import remaining_weights
from dsdctl.store.store import Store
from dsdctl.worker.level import load_data
from dsdctl.worker.starting_point import State, initial_network, starting_point

CPU = torch.device("cpu")
ENVIRONMENT = Environment(
    python="3", torch="2", dsdctl="0", device="cpu", threads=1, wall_seconds=1.0
)
LEVELS = 3

CRITERIA = ("magnitude", "random", "gradient")
SHARES: list[dict[str, Any]] = [
    {"fraction": 0.35, "levels": LEVELS},
    {"sparsities": [0.3, 0.305, 0.9]},
    {"sparsities": [0.8]},
]


pytestmark = pytest.mark.usefixtures("one_deterministic_thread")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.open_for_writing()
    return store


def commit(store: Store, identity: LevelIdentity, network: Network, masks: Masks | None) -> None:
    """Finish a level with the weights of `network`, however they came about."""
    kept = masks or dense_masks(prunable_weights(network))
    result = Diverged(level=identity.level, epoch=0)  # as good as any, for what is read here
    store.levels.commit(identity, result, ENVIRONMENT, [], network.state_dict(), kept)


def trained(network: Network, masks: Masks | None, level: int) -> Network:
    """A stand-in for training: every weight that is left moves a little."""
    stream = torch.Generator().manual_seed(level)
    weights = prunable_weights(network)
    with torch.no_grad():
        for name, weight in weights.items():
            step = torch.randn(weight.shape, generator=stream) * 0.1
            weight.add_(step if masks is None else step * masks[name])
    return network


def scores(identity: LevelIdentity, parent: Network, data: Data) -> dict[str, Tensor]:
    """The scores of the criterion, put together anew."""
    assert identity.pruning is not None
    weights, level = prunable_weights(parent), identity.level
    if identity.pruning.criterion == "random":
        return random_scores(weights, seed=identity.seed, level=level)
    if identity.pruning.criterion == "gradient":
        chosen = gradient_sample(len(data.train), 500, seed=identity.seed, level=level)
        normalize = identity.images.normalize
        images = Normalization(normalize.mean, normalize.std)(data.train.images[chosen])
        return gradient_scores(parent, images, data.train.labels[chosen])
    return {name: weight.detach().abs() for name, weight in weights.items()}


def prune_with_torch(
    layers: dict[str, nn.Module], ranked: dict[str, Tensor], pruning: PruningIdentity
) -> None:
    """One more round by torch.nn.utils.prune, which itself counts what is left."""
    kept = {n: getattr(m, "weight_mask", torch.ones_like(m.weight)) for n, m in layers.items()}

    def amount(names: list[str]) -> float | int:
        if pruning.sparsity is None:
            assert pruning.fraction is not None
            return pruning.fraction
        dense = sum(kept[name].numel() for name in names)
        left = sum(int(kept[name].sum()) for name in names)
        return left - (dense - round(pruning.sparsity * dense))

    scores = {name: score.contiguous() for name, score in ranked.items()}
    if pruning.scope == "layer":
        for name, module in layers.items():
            prune.l1_unstructured(module, "weight", amount([name]), importance_scores=scores[name])
        return
    parameters: list[Any] = [(module, "weight") for module in layers.values()]
    importance: Any = {(layers[name], "weight"): score for name, score in scores.items()}
    prune.global_unstructured(
        parameters, prune.L1Unstructured, importance_scores=importance, amount=amount(list(layers))
    )


@pytest.mark.parametrize("share", SHARES, ids=str)
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("ignore", [[], ["last", "features.3"]], ids=str)
def test_every_level_keeps_what_torchs_pruning_keeps(
    ignore: list[str],
    criterion: str,
    scope: str,
    share: dict[str, Any],
    store: Store,
    tmp_path: Path,
) -> None:
    pruning = {"criterion": criterion, "scope": scope, "ignore": ignore, **share}
    trajectory = only_trajectory(tmp_path, {"pruning": pruning})
    identity = trajectory.level_identity(0, None, None)
    data = load_data(identity.images, identity.noise, tmp_path, CPU)
    state = starting_point(identity, store, data, CPU)
    assert state.masks is None
    layers = {
        f"{name}.weight": copy.deepcopy(module).to(memory_format=torch.contiguous_format)
        for name, module in state.network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }
    dense = ["features.3.weight", "classifier.weight"] if ignore else []
    ignored = sum(layers.pop(name).weight.numel() for name in dense)
    sizes = [module.weight.numel() for module in layers.values()]
    expected = remaining_weights(sizes, trajectory.setup.pruning)

    for level in range(1, trajectory.levels):
        commit(store, identity, trained(state.network, state.masks, level), state.masks)
        ranked = scores(trajectory.level_identity(level, "", None), state.network, data)
        ranked = {name: ranked[name] for name in layers}
        identity = trajectory.level_identity(level, key_of(identity), None)
        state = starting_point(identity, store, data, CPU)

        assert state.masks is not None and identity.pruning is not None
        prune_with_torch(layers, ranked, identity.pruning)
        assert count_nonzero(state.masks) == expected[level] + ignored
        assert all(bool(state.masks[name].all()) for name in dense)
        for name, module in layers.items():
            assert torch.equal(state.masks[name], module.weight_mask.bool()), name  # type: ignore[operator, union-attr]
        for name, weight in prunable_weights(state.network).items():
            assert not bool(weight[~state.masks[name]].any())


def next_state(
    store: Store, folder: Path, retrain: Any, level: int, **pruning: Any
) -> tuple[State, Network, Data, LevelIdentity]:
    """How level `level` starts, and the network at the end of the level before."""
    changes = {"retrain": retrain, **pruning}
    trajectory = only_trajectory(
        folder, {f"pruning.{key}": value for key, value in changes.items()}
    )
    identity = trajectory.level_identity(0, None, None)
    data = load_data(identity.images, identity.noise, folder, CPU)
    state = starting_point(identity, store, data, CPU)
    for number in range(1, level + 1):
        end = copy.deepcopy(trained(state.network, state.masks, number))
        commit(store, identity, end, state.masks)
        identity = trajectory.level_identity(number, key_of(identity), None)
        state = starting_point(identity, store, data, CPU)
    return state, end, data, identity


def assert_is_masked(state: State, expected: Network) -> None:
    """Every tensor is that of `expected`, but for the weights that are removed."""
    assert state.masks is not None
    for name, tensor in expected.state_dict().items():
        wanted = tensor * state.masks[name] if name in state.masks else tensor
        assert torch.equal(state.network.state_dict()[name], wanted), name


@pytest.mark.parametrize("retrain", ["continue", {"mode": "continue", "lr_scale": 0.1}], ids=str)
def test_continuing_starts_from_the_last_weights(
    retrain: Any, store: Store, tmp_path: Path
) -> None:
    state, end, _, _ = next_state(store, tmp_path, retrain, 2)
    assert_is_masked(state, end)


def test_rewinding_starts_from_the_initialization(store: Store, tmp_path: Path) -> None:
    state, _, data, identity = next_state(store, tmp_path, "rewind", 2)
    assert_is_masked(state, initial_network(identity, data, CPU))


def test_re_initializing_starts_from_another_initialization_each_level(
    store: Store, tmp_path: Path
) -> None:
    for level in (1, 2):
        folder = tmp_path / str(level)
        state, _, data, identity = next_state(store, folder, "reinit", level)
        assert_is_masked(state, initial_network(identity, data, CPU, level=level))


def test_rewinding_to_an_iteration_starts_from_the_state_that_is_stored_for_it(
    store: Store, tmp_path: Path
) -> None:
    retrain = {"mode": "rewind", "iteration": 5}
    trajectory = only_trajectory(tmp_path, {"pruning.retrain": retrain})
    early = trajectory.rewind_checkpoint(None)
    assert early is not None
    data = load_data(early.images, early.noise, tmp_path, CPU)
    network = trained(initial_network(early, data, CPU), None, level=99)
    commit(store, early, network, None)
    state, _, _, _ = next_state(store, tmp_path, retrain, 2)
    assert_is_masked(state, network)


def test_gradients_that_are_not_finite_prune_nothing(store: Store, tmp_path: Path) -> None:
    trajectory = only_trajectory(tmp_path, {"pruning.criterion": "gradient"})
    identity = trajectory.level_identity(0, None, None)
    data = load_data(identity.images, identity.noise, tmp_path, CPU)
    network = initial_network(identity, data, CPU)
    with torch.no_grad():
        for weight in prunable_weights(network).values():
            weight.mul_(1e30)
    commit(store, identity, network, None)
    with pytest.raises(WorkError, match="level 1: the gradients to prune by are not finite"):
        starting_point(trajectory.level_identity(1, key_of(identity), None), store, data, CPU)


def kept_of(scores: dict[str, Tensor], count: int) -> Masks:
    """Masks of the `count` weights with the highest scores."""
    ranked = torch.cat([score.flatten() for score in scores.values()]).argsort(descending=True)
    flat = torch.zeros(len(ranked), dtype=torch.bool)
    flat[ranked[:count]] = True
    parts = flat.split([score.numel() for score in scores.values()])
    return {
        name: part.view(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def assert_same_masks(found: Masks | None, expected: Masks) -> None:
    assert found is not None and list(found) == list(expected)
    for name, mask in found.items():
        assert torch.equal(mask, expected[name]), name


@pytest.mark.parametrize("retrain", ["continue", "rewind"])
def test_by_snip_each_level_is_one_shot_from_the_initialization(
    retrain: str, store: Store, tmp_path: Path
) -> None:
    options = {"criterion": "snip", "sample": 30, "fraction": 0.4}
    state, end, data, identity = next_state(store, tmp_path, retrain, 3, **options)
    initial = initial_network(identity, data, CPU)
    chosen = gradient_sample(len(data.train), 30, seed=identity.seed, level=0)
    normalize = identity.images.normalize
    images = Normalization(normalize.mean, normalize.std)(data.train.images[chosen])
    scores = gradient_scores(initial, images, data.train.labels[chosen])
    count = sum(score.numel() for score in scores.values())
    for _ in range(3):
        count -= round(0.4 * count)
    assert_same_masks(state.masks, kept_of(scores, count))
    assert_is_masked(state, end if retrain == "continue" else initial)


def test_by_synflow_each_iteration_scores_what_the_last_one_left(
    store: Store, tmp_path: Path
) -> None:
    options = {"criterion": "synflow", "iterations": 5, "sparsities": [0.5, 0.9]}
    options |= {"fraction": None, "levels": None}
    state, _, data, identity = next_state(store, tmp_path, "rewind", 2, **options)
    initial = initial_network(identity, data, CPU)
    masks, ones = dense_masks(prunable_weights(initial)), torch.ones(1, 1, 8, 8)
    dense = count_nonzero(masks)
    half, tenth = dense - round(0.5 * dense), dense - round(0.9 * dense)
    for before, after in ((dense, half), (half, tenth)):
        for iteration in range(1, 6):
            left = round(before * (after / before) ** (iteration / 5))
            masks = kept_of(synflow_scores(initial, ones, masks), left)
    assert_same_masks(state.masks, masks)
    assert_is_masked(state, initial)
