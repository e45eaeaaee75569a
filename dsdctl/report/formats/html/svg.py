"""Figures inside a page: what is unique in a file of its own must be so among several."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass

from dsdctl.report.figures.draw import Value

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

_LEFT_OUT = (f"{{{SVG}}}metadata", f"{{{SVG}}}style")


LINE = 8.0
"""From a line of a point's text to the next one, in points."""

LETTER = 3.8
"""About the width of a letter there, in points."""

WIDE = 300
"""Points from which a figure gets the page's whole width: those of two columns of a paper."""


@dataclass(frozen=True)
class Inline:
    """A figure as an element of a page, and whether it needs the page's whole width."""

    element: str
    wide: bool


def inline_svg(svg: str, prefix: str, title: str, values: Iterable[Value] = ()) -> Inline:
    """A matplotlib SVG file as an element of a page, its ids beginning with `prefix`.

    What `values` say is shown under the pointer, by the page's style sheet. Its size is left to
    the page. Its style sheet would hold for the whole page, and becomes
    properties that its elements inherit; metadata and comments are left out.
    """
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _LEFT_OUT]:
            parent.remove(child)
        for name, value in parent.attrib.items():
            parent.set(name, _prefixed(name, value, prefix))
    wide = float(root.attrib.pop("width").removesuffix("pt")) > WIDE
    del root.attrib["height"]
    root.attrib |= {
        "role": "img",
        "aria-label": title,
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    across = float(root.attrib["viewBox"].split()[2])
    root.extend(_pointed_at(value, across) for value in values)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Inline(ElementTree.tostring(root, encoding="unicode"), wide)


def _pointed_at(value: Value, across: float) -> ElementTree.Element:
    """A point to be touched, and its text beside it, within a figure that is `across` wide."""
    group = ElementTree.Element(f"{{{SVG}}}g", {"class": "value"})
    place = {"cx": f"{value.x}", "cy": f"{value.y}", "r": "5"}
    ElementTree.SubElement(group, f"{{{SVG}}}circle", place)
    lines = value.text.split("\n")
    above = value.y - LINE * len(lines)
    width = LETTER * max(map(len, lines))
    right = value.x > across / 2
    x = max(value.x - 6, width) if right else min(value.x + 6, across - width)
    anchor = {"text-anchor": "end" if right else "start"}
    text = ElementTree.SubElement(group, f"{{{SVG}}}text", anchor)
    for number, line in enumerate(lines):
        top = above if above > LINE else value.y + 2 * LINE
        at = {"x": f"{x:.2f}", "y": f"{top + LINE * number:g}"}
        ElementTree.SubElement(text, f"{{{SVG}}}tspan", at).text = line
    return group


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}{value}"
    if name == f"{{{XLINK}}}href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    return value.replace("url(#", f"url(#{prefix}")
