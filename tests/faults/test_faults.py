"""A few cases of each class of fault that tests/faults tries; `make faults` tries more."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tiny import ROOT

from faults import places, signals, writes
from faults.bench import Attempt, Bench

pytestmark = pytest.mark.linux

FEW = {
    signals: (
        "writing a report: SIGTERM to the driver",
        "deleting weights: SIGHUP to the group",
    ),
    writes: ("report: ENOSPC from write on", "gc's checksums: EIO at rename"),
    places: ("reading below a name with a new line", "reading below a name with no UTF-8"),
}
"""Those that take a moment."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc for the shim")
    return Bench(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in FEW.items() for name in names]
)
def test_one_case(module: ModuleType, name: str, bench: Bench, tmp_path: Path) -> None:
    found: dict[str, Attempt] = dict(module.cases(bench))
    bench.tried(found[name], tmp_path / "case")


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "arguments",
    [
        ["signals", "--each", "8"],
        ["writes", "--each", "8"],
        ["places", "--each", "6"],
        ["corruption"],
        ["names"],
        ["archives"],
    ],
    ids=" ".join,
)
def test_a_class_of_faults(arguments: list[str]) -> None:
    """All cases of the first three take a quarter of an hour each."""
    line = [sys.executable, "-m", f"tests.faults.{arguments[0]}", *arguments[1:]]
    done = subprocess.run(line, cwd=Path(ROOT), capture_output=True, text=True, check=False)
    wrong = [line for line in done.stdout.splitlines() if not line.startswith("ok")]
    assert done.returncode == 0, "\n".join(wrong) + done.stderr
    assert ", found 0" in done.stdout.splitlines()[-1]
