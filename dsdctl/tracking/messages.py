"""What a mirror is told."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dsdctl.errors import describe_os_error
from dsdctl.spec.fields import Model

ATTACHED = "attached"
"""The folder beside W&B's own in which lie the files that its runs refer to."""

KEPT = "the store holds everything, `dsdctl report SPEC --wandb` sends what is missing"

FINISH_SECONDS = 60.0
"""How long a finished run waits for the mirror."""


class RunInfo(Model):
    """A trajectory, or a comparison, as a tracked run: `run_id` is its own, `experiment` the
    group."""

    run_id: str
    experiment: str
    name: str
    job_type: str
    config: dict[str, Any]


Rows = list[Sequence[float | str | None]]


@dataclass(frozen=True)
class ChosenNetwork:
    """A level that a row reports, as an artifact: its files, and what a reader must know of it."""

    name: str
    files: tuple[str, ...]
    about: Mapping[str, Any]


@dataclass(frozen=True)
class ReportArtifacts:
    """What an experiment's comparison consists of: tables (headings and rows), images as PNG and
    files as text, all by name, and networks."""

    experiment: str
    tables: Mapping[str, tuple[Sequence[str], Rows]]
    images: Mapping[str, bytes]
    files: Mapping[str, str]
    networks: tuple[ChosenNetwork, ...] = ()

    @property
    def digest(self) -> int:
        """What changes with the results."""
        return zlib.crc32(repr((self.tables, self.networks)).encode())


def _one_line(error: Exception) -> str:
    words = describe_os_error(error) if isinstance(error, OSError) else None
    return words or f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
