"""docs/extending.md, followed to the letter: a network and a data set within the package.

Blocks of Python begin with the file that they are about, and are written into a copy of it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import ROOT, write

SPEC = """
experiment: extended
dataset: {name: parity, test: {fraction: 0.4}}
student: {arch: pooled, width: 8}
teacher: {arch: pooled, width: 4, level: 0}
training: {epochs: 1, batch_size: 100}
pruning: {sparsities: [0.98]}
recipes: [vanilla, kd-dense-teacher]
seeds: [0]
"""
"""Of the student's 664 weights 13 stay: too few to write and read all 16 channels."""


def follow(page: str, root: Path) -> list[str]:
    """Write each block of a page where its first line says; return these files."""
    blocks = re.findall(r"```python\n# (dsdctl/[\w/]+\.py)(?:: (\w+))?\n(.*?)```", page, re.S)
    for name, table, text in blocks:
        file = root / name
        if not file.exists():
            write(file, text)
        elif table:
            write(file, _in_table(file.read_text(), table, text))
        else:
            write(file, _with_lines(file.read_text(), text))
    return [name for name, _, _ in blocks]


def _in_table(old: str, table: str, entry: str) -> str:
    (start,) = re.findall(rf"^{table}\b.*\{{\n", old, re.M)
    return old.replace(start, start + entry)


def _with_lines(old: str, lines: str) -> str:
    """Imports are put before the others; what is set replaces what was set by the same name."""
    for line in filter(None, lines.splitlines()):
        if line.startswith("from "):
            old = old.replace("\nfrom ", f"\n{line}\nfrom ", 1)
        else:
            name = line.partition(" = ")[0]
            old, count = re.subn(rf"^{name} = .*$", line, old, flags=re.M)
            assert count == 1
    return old


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_network_takes_two_files_and_a_data_set_one_record(tmp_path: Path) -> None:
    for folder in ("dsdctl", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    assert follow((ROOT / "docs" / "extending.md").read_text(), tmp_path) == [
        "dsdctl/data/parity.py",
        "dsdctl/spec/catalog.py",
        "dsdctl/spec/networks/pooled.py",
        "dsdctl/ml/networks/pooled.py",
        "dsdctl/spec/network.py",
    ]
    write(tmp_path / "spec.yaml", SPEC)

    def dsdctl(*line: str) -> str:
        command = [sys.executable, "-m", "dsdctl", *line]
        given = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert dsdctl("validate", "spec.yaml") == "spec.yaml: ok, 2 rows\n"
    assert "pooled" in dsdctl("plan", "spec.yaml")
    assert "kd-dense-teacher" in dsdctl("run", "spec.yaml", "--device", "cpu")
    line = ("export", "spec.yaml", "--recipe", "vanilla", "--level", "1", "--block", "1")
    dsdctl(*line, "--no-latency", "--output", "out")
    assert "Removed channels" in (tmp_path / "out" / "README.md").read_text()
