"""What Markdown pages show: blocks of code, commands, links and anchors."""

import re
import shlex
from pathlib import Path


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


def commands(page: Path) -> list[str]:
    """The lines to be typed, without their comments; those of a script too."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [shlex.join(words(line)) for line in lines if words(line)]


def dsdctl_commands(page: Path) -> list[str]:
    return [line for line in commands(page) if line.startswith("dsdctl ")]


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def anchors(page: Path) -> set[str]:
    """Where links into a page may lead: its headings, as GitHub and MkDocs spell them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M
    )
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def links(page: Path) -> list[tuple[str, str]]:
    """Path and anchor of each link that leads to no other site; either may be empty."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    inner = [link for link in found if not re.match(r"https?:|mailto:", link)]
    return [(path, anchor) for path, _, anchor in (link.partition("#") for link in inner)]
