"""Where the store is unless somebody says otherwise."""

from pathlib import Path

STORE_VARIABLE = "DSDCTL_STORE"

DEFAULT_STORE = Path("dsdctl-store")
