"""Options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DeviceChoice(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Specs = Annotated[list[Path], typer.Argument(metavar="SPEC...", help="experiment files")]
Recipes = Annotated[
    list[str] | None, typer.Option("--recipe", help="only this recipe (repeatable)")
]
Seeds = Annotated[list[int] | None, typer.Option("--seed", help="only this seed (repeatable)")]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", min=1, help="levels at once; default: one a core on a CPU, one on a GPU"
    ),
]
Memory = Annotated[
    float,
    typer.Option(min=0, max=2**20, metavar="GIB", help="data sets that take more stay on the disk"),
]
Interval = Annotated[
    float,
    typer.Option(min=0.1, max=86_400, metavar="SECONDS", help="with --watch: how often to look"),
]
Threads = Annotated[
    int, typer.Option("--threads", min=1, max=1024, help="threads of a process on a CPU")
]
Device = Annotated[DeviceChoice, typer.Option("--device", help="where to compute")]
