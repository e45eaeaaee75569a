"""What killed processes leave behind."""

from collections.abc import Callable
from pathlib import Path

from dsdctl.system.atomic import beside


def left_behind(place: Path, make: Callable[[Path], None]) -> Path:
    """What a process that was killed on its way to `place` leaves; `make` makes it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with beside(place, make) as temporary:
        pass
    make(temporary)
    return temporary
