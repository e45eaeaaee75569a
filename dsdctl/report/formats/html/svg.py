"""Figures inside a page: what is unique in a file of its own must be so among several."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

_LEFT_OUT = (f"{{{SVG}}}metadata", f"{{{SVG}}}style")


WIDE = 300
"""Points from which a figure gets the page's whole width: those of two columns of a paper."""


@dataclass(frozen=True)
class Inline:
    """A figure as an element of a page, and whether it needs the page's whole width."""

    element: str
    wide: bool


def inline_svg(svg: str, prefix: str, title: str) -> Inline:
    """A matplotlib SVG file as an element of a page, its ids beginning with `prefix`.

    Its size is left to the page. Its style sheet would hold for the whole page, and becomes
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
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return Inline(ElementTree.tostring(root, encoding="unicode"), wide)


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}{value}"
    if name == f"{{{XLINK}}}href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    return value.replace("url(#", f"url(#{prefix}")
