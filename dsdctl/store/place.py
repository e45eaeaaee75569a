"""The default place of the store, and the environment variable that overrides it."""

from pathlib import Path

STORE_VARIABLE = "DSDCTL_STORE"

DEFAULT_STORE = Path("dsdctl-store")
