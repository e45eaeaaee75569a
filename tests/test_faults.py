"""A few cases of each class of fault that tests/faults tries; `make faults` tries more."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import Bench, Case, places, signals, tried, writes
from tiny import ROOT

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
def test_one_case(module: object, name: str, bench: Bench) -> None:
    found: dict[str, Case] = {case[0]: case for case in module.cases(bench)}  # type: ignore[attr-defined]
    tried(bench, found[name])


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("script", "each"), [("signals", 8), ("writes", 8), ("places", 6)])
def test_each_nth_case_of_a_class(script: str, each: int) -> None:
    """All of them take a quarter of an hour: `python -m tests.faults.signals`."""
    line = [sys.executable, "-m", f"tests.faults.{script}", "--each", str(each)]
    done = subprocess.run(line, cwd=Path(ROOT), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("found 0")
