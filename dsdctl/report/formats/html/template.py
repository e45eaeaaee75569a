"""Pages of HTML from templates; all that is put in is escaped."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

import dsdctl
from dsdctl.units import duration, magnitude


def html_page(template: str, **values: object) -> str:
    """A page from one of the templates in this folder."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"magnitude": magnitude, "duration": duration}
    page = environment.get_template(template).render(version=dsdctl.__version__, **values)
    return page.rstrip("\n")
