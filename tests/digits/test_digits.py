"""The embedded experiment shows the phenomenon, as an effect of pruning and not of longer training.

Numbers come from real training and so differ in their last digits between machines;
tests/digits/robustness.py shows how often the claims hold over other seeds and roundings.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT

from digits.claims import claims

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def borne_out(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Which claims the experiment and its control bear out, run as the README says."""
    store = tmp_path_factory.mktemp("digits")
    specs = ("specs/digits.yaml", "specs/digits-control.yaml")
    _dsdctl(store, "run", *specs)
    digits, control = (
        json.loads(_dsdctl(store, "report", spec, "--format", "json")) for spec in specs
    )
    return claims(digits, control)


def _dsdctl(store: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dsdctl", *arguments, "--store", str(store)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=1400, check=True
    ).stdout


@pytest.mark.parametrize("recipe", ["vanilla", "control", "early stop", "dense", "pruned"])
def test_the_digits_bear_out_what_is_claimed(recipe: str, borne_out: dict[str, bool]) -> None:
    of_recipe = {claim: holds for claim, holds in borne_out.items() if claim.startswith(recipe)}
    assert of_recipe
    assert [claim for claim, holds in of_recipe.items() if not holds] == []
