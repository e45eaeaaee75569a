"""Titles and names that are escapes, markup, formulas or commands, in all that shows them.

    python -m tests.faults.names [--each N] [WORD...]

A case is one payload as the title, the warning, a deviation, a note on the paper, a recipe's title,
the name of the spec's file, of the data and so of the variants, and of a teacher's weights. Each
output must be what a plain word in the payload's place gives, with the payload shown as it is
written: nothing of it may be taken for markup.
"""

import csv
import html.parser
import io
import json
import re
import shutil
import sys
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from dsdctl.store.folders import tensor_bytes

from .cases import Case, main
from .inside import command, defects, ended, levels_run_here

PLAIN = "plainword"

PAYLOADS = {
    "rich markup": "[red]x[/red] [link=http://a.b]y[/link] [/]",
    "rich's broken markup": "[/not-open] [bold",
    "an emoji's name": ":bomb: :warning:",
    "HTML script": "<script>alert(1)</script>",
    "HTML attribute": "\"onmouseover='alert(1)' x=\"",
    "HTML comment and entity": "<!-- &lt; &#60;b&#62; -->",
    "HTML image": "<img src=x onerror=alert(1)>",
    "HTML end of style": "</style></title><svg onload=alert(1)>",
    "Jinja": "{{ 7*7 }}{% raw %}",
    "LaTeX input": "\\input{/etc/passwd} \\write18{id}",
    "LaTeX specials": "$x^{ & % # _ } ~ \\ $$ ^^4d",
    "LaTeX end": "\\end{table} \\def\\x{} --- ``q''",
    "Markdown link": "[click](http://a.b)",
    "Markdown image": "![x](http://a.b/beacon.png)",
    "Markdown reference": "[x]: http://a.b [x]",
    "Markdown heading": "# heading",
    "Markdown quote": "> quote",
    "Markdown list": "- item",
    "Markdown numbered list": "1. item",
    "Markdown emphasis": "**b** *i* __b__ _i_ ~~s~~",
    "Markdown code": "`code` ```fence",
    "Markdown fence": "~~~ fence",
    "Markdown rule": "---",
    "Markdown table": "a | b \\| c",
    "Markdown backslash": "\\* \\[x](y)",
    "formula =": "=cmd|' /C calc'!A0",
    "formula +": "+1+cmd|' /C calc'!A0",
    "formula -": "-2+3+cmd|' /C calc'!A0",
    "formula @": "@SUM(1+1)*cmd|' /C calc'!A0",
    "formula with quotes": '=HYPERLINK("http://a.b","x")',
    "shell": "$(touch pwned) `id`; rm -rf x & '\"",
    "an option": "--help -rf",
    "format": "%s %n {0} {x!r} %(message)s",
    "wide and combining": "ＷＩＤＥ 字 e\u0301\u0301\u0301 \U0001f4a3",
}

REFUSED = {
    "escape": "\x1b[2J\x1b]0;title\x07",
    "8-bit escape": "\x9b31m",
    "carriage return": "good\rbad",
    "newline": "good\nbad",
    "tab": "\t=1",
    "backspace": "bad\b\b\bgood",
    "nul": "a\0b",
    "right to left": "abc\u202egnp",
    "isolate": "a\u2066b\u2069",
    "line separator": "a\u2028b",
}
"""What no title may hold, nor the path in a spec: the spec is refused, and shown harmless."""

SPEC = """\
experiment: hostile
title: TITLE
warning: TITLE
deviations: [TITLE]
dataset: {name: npz, validation: test}
student: {arch: vgg-like, depth: 1, width: 4, pool: 2}
teacher: {arch: vgg-like, depth: 1, width: 4, pool: 2}
training: {epochs: 1, batch_size: 8, optimizer: {lr: 0.05}}
pruning: {levels: 1, fraction: 0.3}
recipes: [mine, from-file]
seeds: [0]
matrix: {dataset.file: [FILE, plain.npz]}
reference: {mine: {test_accuracy: {mean: 0.5}, note: TITLE}}
tracking: {wandb: {project: x, mode: disabled}}
"""

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@dataclass
class Shown:
    """What the commands showed with a payload: all that goes to a terminal, and the formats."""

    terminal: str
    formats: dict[str, str]
    figures: list[str]
    log: str


def file_name(payload: str, ending: str = ".npz") -> str:
    """The payload as far as a file's name may be it."""
    return payload.replace("/", "\u2215").replace("\0", "") + ending


def _path(payload: str, ending: str = ".npz") -> str:
    """A file's path in a spec, in which a tilde at the start is a user's home."""
    name = file_name(payload, ending)
    return f"./{name}" if name[0] == "~" else name


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def show(
    folder: Path, payload: str, store: Path, *, export: bool = False, named: str = ""
) -> tuple[Shown, list[str]]:
    """Run and show a spec of the payload; the data is the same, so that nothing is trained anew."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (40, 8, 8), dtype=np.uint8), np.arange(40) % 3
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    for name in (file_name(payload), "plain.npz"):
        with (folder / name).open("wb") as stream:
            np.savez(stream, **arrays)
    shutil.copy(store.parent / "teacher.safetensors", folder / file_name(payload, ".safetensors"))
    text = SPEC.replace("TITLE", _quoted(payload))
    text = text.replace("FILE", _quoted(_path(payload)))
    spec = folder / f"spec {file_name(named or payload, '.yaml')}"
    spec.write_text(text)
    weights = _quoted(_path(payload, ".safetensors"))
    for name, distill in (
        ("mine", ""),
        ("from-file", f"distill: {{teacher: {{weights: {weights}}}}}\n"),
    ):
        title = f"recipe: {name}\ntitle: {_quoted(payload)}\n{distill}"
        (folder / f"{name}.yaml").write_text(title)
    wrong: list[str] = []

    def said(*line: object) -> str:
        done = command(folder, *line)
        wrong.extend(defects(done))
        if done.returncode != 0:
            wrong.append(f"`{line[0]}` ends with {done.returncode}: {done.stderr[-200:]}")
        return done.stdout + done.stderr

    with levels_run_here(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSDCTL_STORE", str(store))
        patch.setenv("COLUMNS", "2000")
        here = f"./{spec.name}"
        terminal = said("run", here)
        for line in (
            ("validate", here), ("plan", here), ("status", here), ("report", here),
            ("report", here, here.replace("./", ".//"), "--compare"), ("store", "list"),
        ):  # fmt: skip
            terminal += said(*line)
        formats = {
            style: said("report", here, "--format", style)
            for style in ("markdown", "latex", "csv", "json")
        }
        two = (here, here.replace("./", ".//"), "--compare", "--format")
        formats["compared"] = said("report", *two, "markdown")
        said("report", here, "--output", "page.html", "--figures", "drawn")
        said("plan", here, "--graph", "graph.dot")
        if export:
            said(
                "export",
                here,
                "--recipe",
                "mine",
                "--variant",
                "dataset.file=plain.npz",
                "--output",
                "out",
            )
            spec.write_text(text.replace("mode: disabled", "mode: offline"))
            if "W&B: offline" not in said("report", here, "--wandb"):
                wrong.append("W&B mirrors nothing")
            formats["card"] = (folder / "out/README.md").read_text()
    formats["html"] = (folder / "page.html").read_text() if not wrong else ""
    figures = [file.read_text() for file in sorted((folder / "drawn").glob("*.svg"))]
    logs = sorted((store / "logs").glob("*.*"), key=lambda file: file.stat().st_mtime)
    return Shown(terminal, formats, figures, logs[-1].read_text() + logs[-2].read_text()), wrong


def compare(payload: str, shown: Shown, plain: Shown) -> list[str]:
    """What differs from what a plain word in the payload's place gives."""
    wrong = []
    if controls(shown.terminal):
        wrong.append("a control character reaches the terminal")
    if controls(shown.log):
        wrong.append("a control character reaches the log")
    if payload not in shown.terminal:
        wrong.append("a terminal does not show it as it is")
    wrong += [f"{name} holds a control character" for name in shown.formats
              if controls(shown.formats[name])]  # fmt: skip
    if elements(shown.formats["html"]) != elements(plain.formats["html"]):
        wrong.append("HTML has other elements or attributes")
    if payload not in Page(shown.formats["html"]).text:
        wrong.append("HTML does not show it as it is")
    for name in ("markdown", "card", "compared"):
        if name in shown.formats:
            wrong += _of_markdown(name, payload, shown.formats[name], plain.formats[name])
    wrong += _of_latex(payload, shown.formats["latex"], plain.formats["latex"])
    wrong += _of_csv(shown.formats["csv"], plain.formats["csv"])
    for figure in shown.figures:
        root = ElementTree.fromstring(figure)
        if {tag(e) for e in root.iter()} & {"script", "a", "foreignObject", "image"}:
            wrong.append("a figure holds an active element")
    return wrong


def controls(text: str) -> bool:
    """Whether a text holds what moves a cursor, ends a line or turns its direction."""
    return any(
        c != "\n" and (unicodedata.category(c) == "Cc" or c in "\u2028\u2029\u202e\u2066\u2069")
        for c in text
    )


class Page(html.parser.HTMLParser):
    """Elements of a page with their attributes' names, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: Counter[tuple[str, ...]] = Counter()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag, *sorted(name for name, _ in attrs)] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def elements(page: str) -> set[tuple[str, ...]]:
    return set(Page(page).elements)


def tag(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _of_markdown(name: str, payload: str, text: str, plain: str) -> list[str]:
    """Rendered, its elements must be those of the plain word, and its text all of it."""
    page, like = Page(MARKDOWN.render(text)), Page(MARKDOWN.render(plain))
    wrong = []
    if page.elements != like.elements:
        other = sorted((page.elements - like.elements) + (like.elements - page.elements))
        wrong.append(f"{name} renders other elements ({', '.join(e[0] for e in other)})")
    elif name != "compared" and " ".join(payload.split()) not in " ".join(page.text.split()):
        wrong.append(f"{name} does not show it as it is")
    return wrong


def _of_latex(payload: str, text: str, plain: str) -> list[str]:
    """Commands, groups, cells and comments must be those of the plain word.

    What stands for a special character is taken out before they are counted.
    """
    stands_for = r"\\text[a-z]+\{\}|\\[&%$#_{}]"

    def special(source: str) -> Counter[str]:
        source = re.sub(stands_for, "", source)
        return Counter(re.findall(r"\\[a-zA-Z]+|[\\{}$&%#^_~]", source))

    more = special(text) - special(plain)
    return [f"LaTeX takes {', '.join(more)} of it for its own"] if more else []


def _of_csv(text: str, plain: str) -> list[str]:
    lines, like = (list(csv.reader(io.StringIO(one))) for one in (text, plain))
    wrong = []
    if [len(line) for line in lines] != [len(line) for line in like]:
        wrong.append("CSV has other cells")
    for cell in (cell for line in lines for cell in line):
        if cell[:1] in "=+-@\t\r" and cell and not re.fullmatch(r"-?[0-9.]+(e[-+]?\d+)?", cell):
            wrong.append(f"CSV has a cell that a spreadsheet computes ({cell[:20]})")
            break
    return wrong


def try_refused(folder: Path, payload: str, store: Path) -> tuple[str, list[str]]:
    """Titles and paths of what moves a cursor are refused, in what may be printed.

    A spec's own file may be called so: the command and its log must show that in other letters.
    """
    shown, wrong = show(folder, PLAIN, store, named=payload)
    wrong += ["its file's name reaches the terminal"] if controls(shown.terminal) else []
    wrong += ["its file's name reaches the log"] if controls(shown.log) else []
    wrong += [f"its file's name reaches {name}" for name in shown.formats
              if controls(shown.formats[name])]  # fmt: skip
    codes = []
    spec = folder / "spec.yaml"
    for key in ("TITLE", "FILE"):
        text = SPEC.replace(key, _quoted(payload))
        spec.write_text(text.replace("TITLE", "x").replace("FILE", "x.npz"))
        codes.append(_refused(folder, "spec.yaml", wrong, key))
    name = payload.replace("\0", "") + ".yaml"
    (folder / name).write_text("experiment: [")
    codes.append(_refused(folder, f"./{name}", wrong, "the spec's name"))
    return " ".join(map(str, codes)), wrong


def _refused(folder: Path, spec: str, wrong: list[str], what: str) -> int:
    done = command(folder, "validate", spec)
    wrong += defects(done)
    if done.returncode != 2:
        wrong.append(f"{what} is not refused")
    if controls(done.stdout + done.stderr):
        wrong.append(f"{what} reaches the terminal")
    return done.returncode


def prepare(root: Path) -> Path:
    """A store, and beside it a teacher's weights; return the store."""
    from networks import build_network

    store = root / "store"
    network = build_network("vgg-like", 1, 3, seed=0, image_size=(8, 8), depth=1, width=4, pool=2)
    (root / "teacher.safetensors").write_bytes(tensor_bytes(network.state_dict()))
    return store


EXPORTED = ("HTML script", "Markdown image", "Markdown emphasis")
"""Payloads that are also shown on a model card; to write one takes seconds."""


def cases(root: Path) -> Iterator[Case]:
    """All payloads, and all that is refused."""
    store = prepare(root)
    plain, wrong = show(root / "plain", PLAIN, store, export=True)
    assert not wrong, wrong

    def try_shown(name: str, folder: Path) -> str:
        shown, wrong = show(folder, PAYLOADS[name], store, export=name in EXPORTED)
        return ended("0", wrong or compare(PAYLOADS[name], shown, plain))

    for name in PAYLOADS:
        yield name, partial(try_shown, name)
    for name, payload in REFUSED.items():
        yield name, lambda folder, p=payload: ended(*try_refused(folder, p, store), "refused")


if __name__ == "__main__":
    sys.exit(main("names", cases) != 0)
