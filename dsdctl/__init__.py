"""dsdctl: experiments on sparse double descent, from one YAML file to a comparison table.

From Python, `dsdctl.open("spec.yaml")` gives the results of a spec; docs/python.md shows how.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsdctl.study.study import Study

__version__ = "0.1.0"


def open(spec: str | Path, *, store: str | Path | None = None) -> "Study":  # noqa: A001 (as gzip.open)
    """Open the results of a spec: what a store holds of it, read only.

    Without `store` they are in the folder $DSDCTL_STORE, or else in `dsdctl-store`. Raises
    `dsdctl.errors.InputError` where the spec does not hold or there is no store.
    """
    from dsdctl.study.study import open_study

    return open_study(spec, store)
