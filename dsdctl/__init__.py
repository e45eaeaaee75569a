"""dsdctl: experiments on sparse double descent, from one YAML file to a comparison table.

From Python, `dsdctl.open("spec.yaml")` gives the results of a spec and `dsdctl.load` an exported
network; docs/python.md shows how.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module

    from dsdctl.study.study import Study

__version__ = "0.1.0"


def open(spec: str | Path, *, store: str | Path | None = None) -> "Study":  # noqa: A001 (as gzip.open)
    """Open the results of a spec: what a store holds of it, read only.

    Without `store` they are in the folder $DSDCTL_STORE, or else in `dsdctl-store`. Raises
    `dsdctl.errors.InputError` where the spec does not hold or there is no store.
    """
    from dsdctl.study.study import open_study

    return open_study(spec, store)


def load(file: str | Path) -> "Module":
    """The network in a `model.safetensors` or `compact.safetensors` that `dsdctl export` wrote.

    It is on the CPU and in eval mode. Raises `dsdctl.errors.InputError` where the file is none of
    these, or holds a network of one's own, which its own code makes.
    """
    from dsdctl.export.load import load_network

    return load_network(Path(file).expanduser())
