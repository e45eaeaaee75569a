"""Specs as large as they may be: every command answers, within a GiB of memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import spec_data, write

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

GIB = 2**30

PROGRAM = """\
import resource, subprocess, sys
output, *arguments = sys.argv[1:]
with open(output, "w") as stream:
    done = subprocess.run([sys.executable, "-m", "dsdctl", *arguments], stdout=stream)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
"""

RECIPES = ["vanilla", "early-stop", "kd-dense-teacher", "kd-pruned-teacher", "entropy-early-stop"]

SPECS: dict[str, dict[str, Any]] = {
    "product": {
        "matrix": {
            "training.optimizer.lr": [n / 100 for n in range(1, 21)],
            "label_noise.rate": [n / 50 for n in range(20)],
            "dataset.split_seed": list(range(5)),
        },
        "recipes": RECIPES,
    },
    "seeds": {"matrix": {"dataset.split_seed": list(range(10))}, "seeds": list(range(1000))},
    "networks": {
        "matrix": {
            "student.width": list(range(1, 21)),
            "training.optimizer.lr": [n / 1000 for n in range(1, 501)],
        },
        "pruning.fraction": 0.1,
        "student.depth": 3,
    },
    "one-teacher": {
        "matrix": {"training.optimizer.lr": [n / 20_000 for n in range(1, 10_001)]},
        "recipes": ["kd-pruned-teacher"],
        "teacher.training": {"optimizer": {"lr": 0.1}},
        "student.width": 16,
        "teacher.width": 16,
        "pruning": {"fraction": 0.1},
    },
}


def output(folder: Path, *arguments: str) -> str:
    """What the command prints; it ends well, and took at most a GiB."""
    line = [sys.executable, "-c", PROGRAM, str(folder / "output"), *arguments]
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(line, cwd=folder, env=wide, capture_output=True, text=True, check=False)
    code, peak_bytes = map(int, done.stdout.split())
    assert code == 0, done.stderr
    assert peak_bytes <= GIB
    return (folder / "output").read_text()


@pytest.mark.parametrize("name", ["seeds", "networks", "one-teacher"])
def test_ten_thousand_cells_are_planned_whole_in_json_and_legibly_on_the_console(
    name: str, tmp_path: Path
) -> None:
    changes = SPECS[name]
    write(tmp_path / "spec.yaml", spec_data(changes))
    plan = json.loads(output(tmp_path, "plan", "spec.yaml", "--json", "--device", "cpu"))
    seeds = len(changes.get("seeds", [0]))
    assert len(plan["recipes"]) * seeds == 10_000
    assert plan["totals"]["trainings"] > 10_000
    shown = output(tmp_path, "plan", "spec.yaml", "--device", "cpu")
    assert len(shown.splitlines()) < 1000
    assert re.search("and [0-9,]+ more", shown)


def test_the_other_commands_answer_on_an_empty_store(tmp_path: Path) -> None:
    write(tmp_path / "spec.yaml", spec_data(SPECS["product"]))
    assert output(tmp_path, "validate", "spec.yaml") == "spec.yaml: ok, 10000 rows\n"
    assert len(output(tmp_path, "status", "spec.yaml").splitlines()) == 2000 * 4
    assert "and 1,950 more variants, which JSON has" in output(tmp_path, "report", "spec.yaml")
    report = json.loads(output(tmp_path, "report", "spec.yaml", "--format", "json"))
    assert len(report["rows"]) == 10_000
    assert len(output(tmp_path, "report", "spec.yaml", "--format", "markdown")) > 10_000
