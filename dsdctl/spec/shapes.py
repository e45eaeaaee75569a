"""Closed forms of what pruning leaves of a network, to check specs without torch."""

import functools
from collections.abc import Collection, Iterable, Sequence

from dsdctl.spec.pruning import Pruning

FIRST, LAST = "first", "last"
"""Words for a layer that `pruning.ignore` takes beside names."""


def ignored_layers(layers: Iterable[str], ignore: Collection[str]) -> tuple[str, ...]:
    """Of the `layers` of a network those that `ignore` names, itself or as `first` or `last`."""
    names = list(layers)
    words = {FIRST: names[0], LAST: names[-1]}
    chosen = {words.get(name, name) for name in ignore}
    return tuple(name for name in names if name in chosen)


def kept_weights(dense: int, before: int, fraction: float | None, sparsity: float | None) -> int:
    """Of the `before` weights that are left of `dense`, how many a round keeps.

    n_k = n_{k-1} - round(fraction * n_{k-1}), or n_k = n_0 - round(sparsity * n_0) where the
    level's sparsity is given.
    """
    if sparsity is not None:
        return dense - round(sparsity * dense)
    assert fraction is not None
    return before - round(fraction * before)


def kept_on_the_way(before: int, kept: int, share: float) -> int:
    """How many weights are left after a `share` of a round's iterations, from `before` to `kept`.

    Each iteration keeps the same share of what it finds (Tanaka et al. 2020, SynFlow).
    """
    return round(before * (kept / before) ** share) if before else 0


def remaining_weights(layers: Sequence[int], pruning: Pruning) -> list[int]:
    """n_0 .. n_rounds, `layers` being the weights of each layer that is pruned, dense.

    Each layer is rounded by itself where it is ranked by itself.
    """
    return list(_remaining_weights(tuple(layers), pruning))


@functools.lru_cache(maxsize=1024)
def _remaining_weights(layers: tuple[int, ...], pruning: Pruning) -> tuple[int, ...]:
    dense = list(layers) if pruning.scope == "layer" else [sum(layers)]
    left = dense
    counts = [sum(dense)]
    for level in range(1, pruning.rounds + 1):
        share = pruning.share(level)
        left = [kept_weights(*pair, *share) for pair in zip(dense, left, strict=True)]
        counts.append(sum(left))
    return tuple(counts)
