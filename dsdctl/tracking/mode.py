"""Whether W&B is used online, offline or not at all."""

import netrc
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse


def wished_mode(mode: str, environment: Mapping[str, str]) -> str:
    """What the spec says, else $WANDB_MODE."""
    return environment.get("WANDB_MODE", "auto") if mode == "auto" else mode


def effective_mode(mode: str, environment: Mapping[str, str]) -> str:
    """`online`, `offline` or `disabled`: what is wished, as far as there is a key."""
    wished = wished_mode(mode, environment)
    if wished in ("disabled", "offline"):
        return wished
    return "online" if _has_key(environment) else "offline"


def _has_key(environment: Mapping[str, str]) -> bool:
    """Look for a key where `wandb login` puts it, and in $WANDB_API_KEY.

    The client itself would ask for one on a terminal, and wait for ever.
    """
    if environment.get("WANDB_API_KEY"):
        return True
    host = urlparse(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        file = environment.get("NETRC") or str(Path("~/.netrc").expanduser())
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, RuntimeError, netrc.NetrcParseError):  # a user without a home folder, say
        return False
