"""How many weights pruning leaves, in closed form, to check specs without torch."""

import functools
from collections.abc import Collection, Iterable, Sequence

from dsdctl.spec.pruning import Pruning

FIRST, LAST = "first", "last"
"""Words that `pruning.ignore` accepts besides the names of layers."""


def ignored_layers(layers: Iterable[str], ignore: Collection[str]) -> tuple[str, ...]:
    """The `layers` of a network that are in `ignore`, by name or as `first` or `last`."""
    names = list(layers)
    words = {FIRST: names[0], LAST: names[-1]}
    chosen = {words.get(name, name) for name in ignore}
    return tuple(name for name in names if name in chosen)


def kept_weights(dense: int, before: int, fraction: float | None, sparsity: float | None) -> int:
    """How many weights remain after a round, of `before` before it and `dense` at first.

    n_k = n_{k-1} - round(fraction * n_{k-1}), or n_k = n_0 - round(sparsity * n_0) if the level's
    sparsity is given.
    """
    if sparsity is not None:
        return dense - round(sparsity * dense)
    assert fraction is not None
    return before - round(fraction * before)


def kept_on_the_way(before: int, kept: int, share: float) -> int:
    """How many weights remain after a fraction `share` of the iterations of a round, which goes
    from `before` weights to `kept`.

    Each iteration keeps the same fraction: before (kept / before)^share (Tanaka et al. 2020).
    """
    return round(before * (kept / before) ** share) if before else 0


def remaining_weights(layers: Sequence[int], pruning: Pruning) -> list[int]:
    """The numbers of remaining weights n_0 .. n_rounds.

    `layers` are the dense weights of each layer that is pruned. With scope `layer`, each layer is
    rounded by itself.
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
