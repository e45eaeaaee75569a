"""`dsdctl export`: a network out of the store."""

from pathlib import Path
from typing import Annotated

import typer

from dsdctl.cli.completion import complete_recipe, complete_seed
from dsdctl.cli.console import print_line, reported
from dsdctl.cli.options import DEFAULT_STORE, Spec, StoreOption, make_plan_of, progress_of


def export(
    spec: Spec,
    recipe: Annotated[
        str, typer.Option("--recipe", help="whose network", autocompletion=complete_recipe)
    ],
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="default: the spec's first", autocompletion=complete_seed),
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="of a matrix, as the report names it")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="a new folder")
    ] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write the network that a recipe's row reports: safetensors and ONNX, whole and compacted."""
    with reported():
        made = make_plan_of([spec], [recipe], None if seed is None else [seed], known_in=store)
        from dsdctl.export.as_onnx import require_onnx
        from dsdctl.export.chosen import choose
        from dsdctl.export.write import export as write_export

        require_onnx()
        progress = progress_of(made, store, may_be_absent=True)
        progress.store.require()
        chosen = choose(progress, recipe, seed, variant)
        folder = output or Path(chosen.name)
        for line in write_export(chosen, progress.store, folder):
            print_line(line)
        print_line(f"{folder}: level {chosen.result.level} of {recipe}, README.md says the rest")
