"""`dsdctl validate`: whether specs hold."""

from dsdctl.cli.console import print_line, reported
from dsdctl.cli.options import Specs, pass_on_warnings


def validate(specs: Specs) -> None:
    """Check specs and the recipes that they name; print every problem at once."""
    with reported():
        from dsdctl.plan.resolve import resolve_all

        found = resolve_all(specs)
        pass_on_warnings(found)
        for spec in found:
            if spec.unprepared is not None:
                print_line(f"{spec.file}: ok as far as can be said: {spec.unprepared}")
                continue
            count = len(spec.rows)
            line = f"{spec.file}: ok, {count} row{'s' * (count != 1)}"
            print_line(line)
