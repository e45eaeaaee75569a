"""A user's code is known by what its files hold, found without being run."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from builders import only_problem, write

from dsdctl.errors import InputError, WorkError
from dsdctl.own.load import load, raised_at
from dsdctl.own.source import (
    MAX_BYTES,
    Source,
    find_package,
    find_source,
    read_again,
    source_from_json,
)

NETS = """\
import os
from torch import nn
import numpy
import blocks
from layers.deep import thing
from .beside import other


def Net(in_channels, classes):
    import lazily

    return blocks.VALUE, thing, other, lazily.VALUE
"""


def project(folder: Path) -> Path:
    """A file that imports what lies beside it, in several ways."""
    write(folder / "blocks.py", "VALUE = 'block'\n")
    write(folder / "layers" / "__init__.py", "")
    write(folder / "layers" / "deep.py", "from . import sibling\nthing = sibling.VALUE\n")
    write(folder / "layers" / "sibling.py", "VALUE = 'sibling'\n")
    write(folder / "beside.py", "other = 'other'\n")
    write(folder / "lazily.py", "VALUE = 'lazy'\n")
    write(folder / "unrelated.py", "raise RuntimeError\n")
    return write(folder / "nets.py", NETS)


def test_what_is_imported_from_beside_the_file_belongs_to_it(tmp_path: Path) -> None:
    source = find_source(project(tmp_path), "Net", ())
    assert set(source.files) == {
        "nets.py", "blocks.py", "layers/__init__.py", "layers/deep.py", "layers/sibling.py",
        "beside.py", "lazily.py",
    }  # fmt: skip
    assert source.third_party == ["numpy"]


def test_the_file_may_lie_anywhere_and_be_called_anything(tmp_path: Path) -> None:
    first = find_source(project(tmp_path / "one"), "Net", ())
    project(tmp_path / "two")
    renamed = shutil.move(tmp_path / "two" / "nets.py", tmp_path / "two" / "wide-nets.v2.py")
    assert find_source(Path(renamed), "Net", ()).digest == first.digest


@pytest.mark.parametrize("name", ["nets.py", "blocks.py", "layers/sibling.py", "lazily.py"])
def test_a_byte_of_any_of_its_files_counts(tmp_path: Path, name: str) -> None:
    file = project(tmp_path)
    before = find_source(file, "Net", ()).digest
    (tmp_path / "unrelated.py").write_text("changed = 1\n")
    assert find_source(file, "Net", ()).digest == before
    (tmp_path / name).write_text((tmp_path / name).read_text() + "#\n")
    assert find_source(file, "Net", ()).digest != before


def test_files_that_no_import_names_are_listed(tmp_path: Path) -> None:
    file = project(tmp_path)
    source = find_source(file, "Net", ["unrelated.py"])
    assert "unrelated.py" in source.files
    assert source.digest != find_source(file, "Net", ()).digest


@pytest.mark.parametrize("path", ["missing.py", "../outside.py", "data.json"])
def test_only_python_files_below_it_can_be_listed(tmp_path: Path, path: str) -> None:
    write(tmp_path / "outside.py", "")
    write(tmp_path / "in" / "data.json", "{}")
    file = project(tmp_path / "in")
    assert only_problem(lambda: find_source(file, "Net", [path])).startswith("sources: ")


def test_a_package_is_all_its_python_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path / "my_lab")
    write(tmp_path / "my_lab" / "__init__.py", "raise RuntimeError('was run')\n")
    monkeypatch.syspath_prepend(tmp_path)
    source = find_package("my_lab.nets", "Net")
    assert "my_lab/unrelated.py" in source.files and source.shown == "my_lab.nets"
    assert "my_lab" not in sys.modules
    assert only_problem(lambda: find_package("my_lab.no", "Net")).endswith("my_lab.no in Python")
    assert "no module nowhere" in only_problem(lambda: find_package("nowhere.nets", "Net"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "from torch import nn\nclass Other(nn.Module): pass\ndef _part(): pass\n",
            r"nets\.py has no Net \(allowed: Other\)$",
        ),
        ("def net(): pass\n", r"has no Net; did you mean net\? \(allowed: net\)$"),
        ("x = 1\ndef Net(:\n", r"nets\.py:2: SyntaxError: invalid syntax$"),
        ("\0", r"nets\.py: (not Python code|SyntaxError)"),
    ],
)
def test_code_without_the_name_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    file = write(tmp_path / "nets.py", text)
    assert re.search(reason, only_problem(lambda: find_source(file, "Net", ())))


@pytest.mark.parametrize(
    "text",
    [
        "class Net: pass\n",
        "Net = None\n",
        "from torch.nn import Linear as Net\n",
        "from torch.nn import *\n",
        "try:\n    import Net\nexcept ImportError:\n    pass\n",
    ],
)
def test_a_name_may_be_bound_in_any_way(tmp_path: Path, text: str) -> None:
    assert find_source(write(tmp_path / "nets.py", text), "Net", ()).name == "Net"


def test_what_is_too_large_to_be_kept_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "nets.py", "Net = 1\n#" + MAX_BYTES * "x")
    assert "too large" in only_problem(lambda: find_source(file, "Net", ()))


def test_a_source_is_read_again_only_as_it_was(tmp_path: Path) -> None:
    file = project(tmp_path)
    place = find_source(file, "Net", ()).place
    assert read_again(place).digest == place.digest
    (tmp_path / "layers" / "sibling.py").write_text("VALUE = 'changed'\n")
    with pytest.raises(WorkError, match=r"nets\.py: changed since the run was planned"):
        read_again(place)
    (tmp_path / "layers" / "sibling.py").unlink()
    with pytest.raises(WorkError, match=r"sibling\.py: No such file"):
        read_again(place)


def test_it_is_kept_whole(tmp_path: Path) -> None:
    source = find_source(project(tmp_path), "Net", ())
    (tmp_path / "nets.py").write_bytes(b"# -*- coding: latin-1 -*-\nNet = '\xe9'\n")
    for one in (source, find_source(tmp_path / "nets.py", "Net", ())):
        kept = source_from_json(one.to_json(), "elsewhere")
        assert kept.files == one.files and kept.digest == one.digest


# Loading


def kept(source: Source) -> Source:
    """The same, with no file to be read."""
    return source_from_json(source.to_json(), "nowhere")


def test_all_ways_to_import_are_served_from_memory(tmp_path: Path) -> None:
    source = kept(find_source(project(tmp_path), "Net", ()))
    assert load(source)(1, 2) == ("block", "sibling", "other", "lazy")


def test_a_package_is_served_from_memory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import my_lab.blocks\nfrom my_lab import layers\ndef Net():\n"
    write(tmp_path / "my_lab" / "nets.py", text + "    return my_lab.blocks.VALUE, layers.VALUE\n")
    write(tmp_path / "my_lab" / "__init__.py", "")
    write(tmp_path / "my_lab" / "blocks.py", "VALUE = 1\n")
    write(tmp_path / "my_lab" / "layers.py", "VALUE = 2\n")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(tmp_path)
        source = find_package("my_lab.nets", "Net")
    assert load(kept(source))() == (1, 2)
    assert "my_lab" not in sys.modules


def test_files_of_the_same_name_do_not_meet(tmp_path: Path) -> None:
    found = []
    for folder in ("one", "two"):
        write(tmp_path / folder / "blocks.py", f"VALUE = {folder!r}\n")
        file = write(tmp_path / folder / "nets.py", "import blocks\nNet = lambda: blocks.VALUE\n")
        found.append(load(find_source(file, "Net", ())))
    assert [net() for net in found] == ["one", "two"]


def test_what_it_raises_is_told_with_the_last_place_in_it(tmp_path: Path) -> None:
    write(tmp_path / "blocks.py", "def fail():\n    return int('x')\n")
    file = write(tmp_path / "nets.py", "import blocks\n\n\ndef Net():\n    blocks.fail()\n")
    source = find_source(file, "Net", ())
    with pytest.raises(ValueError, match="invalid") as raised:
        load(source)()
    said = raised_at(raised.value, source)
    assert said.startswith(f"{tmp_path / 'blocks.py'}:2: ValueError: invalid literal")


def test_a_module_that_fails_fails_each_time(tmp_path: Path) -> None:
    source = find_source(write(tmp_path / "nets.py", "Net = 1\nNet.x\n"), "Net", ())
    for _ in range(2):
        with pytest.raises(AttributeError):
            load(source)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.py: no such file"):
        find_source(tmp_path / "gone.py", "Net", ())
