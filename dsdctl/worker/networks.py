"""Building networks from their identities: dsdctl's and a user's own."""

from collections.abc import Sequence

from torch import nn

from dsdctl.errors import WorkError
from dsdctl.ml.networks.build import build_network, network_class
from dsdctl.ml.networks.own import build_own
from dsdctl.own.load import load, raised_at
from dsdctl.own.source import Source, SourcePlace, read_again
from dsdctl.spec.network import CodeNetwork, Network


def source_of(choice: Network, place: SourcePlace | None) -> Source | None:
    """The code of a user's own network, read again from `place`; None for dsdctl's networks.

    Raises WorkError if it has changed since the run was planned.
    """
    if not isinstance(choice, CodeNetwork):
        return None
    assert place is not None
    return read_again(place)


def new_network(
    choice: Network,
    shape: Sequence[int],
    classes: int,
    seed: int = 0,
    level: int = 0,
    *,
    source: Source | None = None,
) -> nn.Module:
    """A network for images of `shape` (H, W, C), initialized from (`seed`, `level`), on the CPU.

    A user's own is built by its `source`; raises WorkError if that code fails.
    """
    height, width, channels = shape
    if isinstance(choice, CodeNetwork):
        return _own_network(choice, source, channels, classes, seed, level)
    make, arguments = network_class(choice.MODULE), choice.arguments((height, width))
    return build_network(make, channels, classes, seed=seed, level=level, **arguments)


def _own_network(
    choice: CodeNetwork, source: Source | None, channels: int, classes: int, seed: int, level: int
) -> nn.Module:
    assert source is not None
    if choice.code is not None and choice.code != source.digest:
        raise WorkError(f"{source.shown}: changed since the run was planned")
    try:
        options = choice.options
        return build_own(load(source), channels, classes, options, seed=seed, level=level)
    except WorkError:
        raise
    except Exception as error:
        raise WorkError(f"{choice.name}: {raised_at(error, source)}") from error
