"""`dsdctl export`: a network out of the store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsdctl.cli.completion import complete_recipe, complete_seed
from dsdctl.cli.console import print_line, reported, warn
from dsdctl.cli.options import Spec, StoreOption, make_plan_of, progress_of
from dsdctl.errors import InputError, WorkError
from dsdctl.export.hub import check_hub, push
from dsdctl.store.place import DEFAULT_STORE

if TYPE_CHECKING:
    from dsdctl.export.card import Exported
    from dsdctl.export.chosen import Wish


def export(
    spec: Spec,
    recipe: Annotated[
        str,
        typer.Option(
            "--recipe", help="recipe whose network is exported", autocompletion=complete_recipe
        ),
    ],
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="default: the spec's first", autocompletion=complete_seed),
    ] = None,
    variant: Annotated[
        str | None, typer.Option("--variant", help="variant of a matrix, as the report names it")
    ] = None,
    level: Annotated[
        int | None, typer.Option("--level", min=0, help="this level instead of the reported one")
    ] = None,
    sparsest_within: Annotated[
        float | None,
        typer.Option(
            "--sparsest-within",
            metavar="X",
            help="the sparsest level whose validation accuracy is at most X below the best (0.01: "
            "a point)",
        ),
    ] = None,
    best: Annotated[bool, typer.Option("--best", help="the best level on validation")] = False,
    block: Annotated[
        int,
        typer.Option(
            "--block",
            min=1,
            max=1024,
            help="compacted convolutions keep a multiple of this many channels; 1: no idle ones",
        ),
    ] = 16,
    no_latency: Annotated[
        bool,
        typer.Option(
            "--no-latency",
            help="do not measure latency; the same network then gives the same bytes",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="DIR", help="new folder; default: named after spec, recipe and key"
        ),
    ] = None,
    push_to: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="USER/NAME",
            help="also upload to this repository of Hugging Face's Hub",
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="with --push: make the repository a private one")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write the network that a recipe's row reports, or another level: safetensors and ONNX, whole
    and compacted, with what they cost. ONNX needs `pip install 'dsdctl[export]'`."""
    with reported():
        wish = _wish(level, sparsest_within, best=best)
        if private and push_to is None:
            raise InputError("--private: only with --push")
        if push_to is not None:
            check_hub(push_to)
        made = make_plan_of([spec], [recipe], None if seed is None else [seed], known_in=store)
        from dsdctl.export.card import pruned_words
        from dsdctl.export.chosen import choose
        from dsdctl.export.write import export as write_export

        progress = progress_of(made, store, may_be_absent=True)
        progress.store.require()
        chosen = choose(progress, recipe, seed, variant, wish)
        folder = output or Path(chosen.name)
        exported = write_export(chosen, progress.store, folder, block, timed=not no_latency)
        _tell(exported)
        words = f"level {chosen.result.level} of {recipe} ({pruned_words(chosen.result)})"
        print_line(f"{folder}: {words}, see README.md there")
        if push_to is not None:
            print_line(push(folder, push_to, private=private))
        if exported.refused:
            raise WorkError(f"no ONNX: {exported.refused}; the other files are written")


def _tell(exported: "Exported") -> None:
    """Print what was checked, counted and timed; warn of what is not as one would expect."""
    from dsdctl.export.as_onnx import without_onnx
    from dsdctl.export.card import processor_name
    from dsdctl.export.speed import THREADS
    from dsdctl.units import size

    missing = without_onnx()
    warn([f"no ONNX: {missing}"] if missing else [])
    lines = [check.line for check in exported.checks]
    lines += [f"{name}: {size(count)}" for name, count in exported.bytes_of.items()]
    lines += exported.sizes
    if exported.latencies:
        where = f"{THREADS} thread of {processor_name()}"
        lines.append(f"latency on {where}, median (80 % of batches):")
    for line in [*lines, *(f"  {one.line}" for one in exported.latencies)]:
        print_line(line)
    warn(exported.slower)


def _wish(level: int | None, sparsest_within: float | None, *, best: bool) -> "Wish | None":
    """The level that is asked for, if any. Raises InputError where that is more than one."""
    from dsdctl.spec.experiment import SparsestWithin

    given = {"--level": level is not None, "--sparsest-within": sparsest_within is not None}
    asked = [name for name, there in (given | {"--best": best}).items() if there]
    if len(asked) > 1:
        raise InputError(f"{asked[1]}: not with {asked[0]}")
    if sparsest_within is not None:
        if not 0 <= sparsest_within < 1:
            raise InputError(
                f"--sparsest-within: is {sparsest_within} (allowed: >= 0, < 1; 0.01 is a point)"
            )
        return SparsestWithin(sparsest_within=sparsest_within)
    return "best" if best else level
