"""A network from a file that `dsdctl export` wrote, whole or compacted."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dsdctl.errors import InputError, WorkError
from dsdctl.keys import LevelIdentity
from dsdctl.ml.compact import fit_to
from dsdctl.spec.fields import Model
from dsdctl.spec.network import CodeNetwork, Network
from dsdctl.worker.networks import new_network
from dsdctl.worker.starting_point import load_weights

_NETWORKS: TypeAdapter[Network] = TypeAdapter(Network)


class _Sizes(Model):
    """Of the images (H, W, C) that a network takes, and of what it gives."""

    shape: tuple[int, int, int]
    classes: int


def architecture(
    identity: LevelIdentity, shape: tuple[int, int, int], classes: int
) -> dict[str, str]:
    """What an exported file says of its network, for load_network; `shape` is (H, W, C)."""
    network = _NETWORKS.dump_json(identity.network).decode()
    return {"network": network, "sizes": _Sizes(shape=shape, classes=classes).model_dump_json()}


def load_network(file: Path) -> nn.Module:
    """The network of an exported file, on the CPU and in eval mode. Raises InputError."""
    facts, tensors = _read(file)
    try:
        choice = _NETWORKS.validate_json(facts["network"])
        sizes = _Sizes.model_validate_json(facts["sizes"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{file}: does not say which network it holds") from error
    if isinstance(choice, CodeNetwork):
        reason = "is a network of one's own (allowed: its own code, and load_state_dict)"
        raise InputError(f"{file}: {reason}")
    network = new_network(choice, sizes.shape, sizes.classes)
    try:
        fit_to(network, tensors)
        load_weights(network, tensors, str(file))
    except WorkError as error:
        raise InputError(str(error)) from error
    return network.eval()


def _read(file: Path) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    """What a safetensors file says of itself, and its tensors. Raises InputError."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return opened.metadata() or {}, tensors
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise InputError(f"{file}: not a whole safetensors file ({error})") from error
