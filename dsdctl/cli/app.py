"""The command line: parse, call, print. Heavy imports wait until a command needs them."""

import sys
from typing import Annotated

import typer

from dsdctl import __version__
from dsdctl.cli import (
    bench,
    doctor,
    export,
    init,
    plan,
    prepare,
    recipes,
    rehearse,
    report,
    run,
    schema,
    status,
    store,
    validate,
)
from dsdctl.cli.console import (
    encode_anything,
    print_line,
    reported,
    written_out,
)
from dsdctl.ml.kernels.choice import kernel_mode

app = typer.Typer(
    name="dsdctl",
    help="Experiments on sparse double descent: one YAML file in, a comparison table out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def print_version(wanted: bool) -> None:
    """Print dsdctl's version, and those that results are known by, and end."""
    if wanted:
        from dsdctl.keys import NUMERICS_VERSION, SCHEMA_VERSION

        print_line(f"dsdctl {__version__} (schema {SCHEMA_VERSION}, numerics {NUMERICS_VERSION})")
        raise typer.Exit


@app.callback(help=app.info.help)
def check_environment(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=print_version,
            is_eager=True,
            help="print the version, the schema version and the numerics version",
        ),
    ] = False,
) -> None:
    """Refuse what is no setting, before anything is done."""
    with reported():
        kernel_mode()


for _command in (
    init.init,
    validate.validate,
    plan.plan,
    prepare.prepare,
    rehearse.rehearse,
    run.run,
    report.report,
    status.status,
    export.export,
    recipes.recipes,
    schema.schema,
    bench.bench,
    doctor.doctor,
):
    app.command()(_command)
app.add_typer(store.app, name="store")


def main() -> None:
    """Do what the command line says."""
    encode_anything()
    try:
        app()
    except SystemExit as end:
        sys.exit(written_out(end.code))
