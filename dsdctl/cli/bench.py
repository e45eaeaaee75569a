"""`dsdctl bench`: how fast this machine is."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from dsdctl.bench.results import CaseName
from dsdctl.cli.completion import complete_case
from dsdctl.cli.console import notify, out, print_result, reported
from dsdctl.cli.options import Device, DeviceChoice
from dsdctl.errors import InputError

Cases = Annotated[
    list[str] | None,
    typer.Option(
        "--case",
        help=f"repeatable; one of {', '.join(get_args(CaseName))}",
        autocompletion=complete_case,
    ),
]


def bench(
    device: Device = DeviceChoice.auto,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs", min=1, help="trainings at once: a process and core each; on a GPU, streams"
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", help="an .npz of x_train (N, 32, 32, 3) uint8 and y_train"),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, help="repeats of each measurement")
    ] = 5,
    batches: Annotated[
        int | None,
        typer.Option(
            "--batches",
            min=2,
            help="batches of 128 images per measurement; default: 6, on a GPU 200",
        ),
    ] = None,
    cases: Cases = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Measure how fast this machine trains, against a plain PyTorch loop and its ceilings."""
    with reported():
        from dsdctl.bench.run import run_bench
        from dsdctl.bench.view import print_bench
        from dsdctl.system.devices import choose_device

        unknown = set(cases or ()) - set(get_args(CaseName))
        if unknown:
            allowed = ", ".join(get_args(CaseName))
            raise InputError(f"--case: {', '.join(sorted(unknown))} (allowed: {allowed})")
        chosen = choose_device(device.value)
        result = run_bench(
            chosen,
            jobs=jobs,
            repeats=repeats,
            batches=batches or (6 if chosen == "cpu" else 200),
            images=images,
            names=[name for name in get_args(CaseName) if not cases or name in cases],
            notify=notify,
        )
        if as_json:
            print_result(result.model_dump_json(indent=2))
        else:
            print_bench(result, out())
