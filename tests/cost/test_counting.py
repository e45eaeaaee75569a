"""MACs are counted once: what a store keeps of them is what fvcore counts, and takes no torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import SPEC, planned, write

from dsdctl.cost.ledger import Macs, fvcore_macs
from dsdctl.cost.macs import FILE, MacCache
from dsdctl.plan.plan import Plan
from dsdctl.plan.rows import TrainingSetup
from dsdctl.store.store import Store
from dsdctl.system.devices import has_gpu_driver

RECIPES = {"recipes": ["vanilla", "kd-dense-teacher"]}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two networks: a student's and its teacher's."""
    return planned(tmp_path, RECIPES)


@pytest.fixture
def store(tmp_path: Path, plan: Plan) -> Store:
    """A store that keeps the counts of that plan."""
    store = Store(tmp_path / "dsdctl-store")
    store.open_for_writing()
    macs = MacCache(store)
    for setup in _setups(plan):
        macs(setup)
    macs.save()
    return store


def _setups(plan: Plan) -> list[TrainingSetup]:
    return [trajectory.setup for trajectory in plan.trajectories.values()]


def _counts(store: Store, plan: Plan) -> list[tuple[int, list[tuple[str, int]]]]:
    """Of each trajectory's network, with its layers in their order, on which sums depend."""
    return [_listed(MacCache(store)(setup)) for setup in _setups(plan)]


def _listed(macs: Macs) -> tuple[int, list[tuple[str, int]]]:
    return macs.total, list(macs.per_layer.items())


def test_what_is_kept_is_what_fvcore_counts(store: Store, plan: Plan) -> None:
    kept = store.read_json(FILE)
    assert kept is not None
    assert len(kept["counts"]) == 2
    assert _counts(store, plan) == [_listed(fvcore_macs(setup)) for setup in _setups(plan)]


def test_what_is_kept_is_used(store: Store, tmp_path: Path) -> None:
    """By commands that could not count: they cannot import torch."""
    write(tmp_path / "spec.yaml", {**SPEC, **RECIPES})
    program = "import sys; sys.modules['torch'] = None; from dsdctl.cli.app import main; main()"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", program, *arguments]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)

    planned = run("plan", "spec.yaml", "--json", "--device", "cpu")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["totals"]["trainings"] == 4 + 4 + 1
    reported = run("report", "spec.yaml", "--format", "json")
    assert reported.returncode == 0, reported.stderr
    (store.root / FILE).unlink()
    assert run("report", "spec.yaml").returncode != 0


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept["counts"].update({name: [1, []] for name in kept["counts"]}),
        lambda kept: kept.update(checksum="0" * 64),
        lambda kept: kept.update(counts=[1]),
        lambda kept: kept.clear(),
    ],
    ids=["counts", "checksum", "kind", "empty"],
)
def test_what_was_altered_is_counted_anew(change: Any, store: Store, plan: Plan) -> None:
    kept = store.read_json(FILE)
    assert kept is not None
    change(kept)
    store.write_json(FILE, kept)
    assert _counts(store, plan) == [_listed(fvcore_macs(setup)) for setup in _setups(plan)]


def test_what_another_version_counted_is_counted_anew(
    store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Macs(1, {})
    with monkeypatch.context() as patched:
        patched.setattr("importlib.metadata.version", lambda _package: "0")
        patched.setattr("dsdctl.cost.macs.fvcore_macs", lambda _setup: wrong)
        macs = MacCache(store)
        assert [macs(setup) for setup in _setups(plan)] == [wrong] * 3
        macs.save()
        assert _counts(store, plan) == [_listed(wrong)] * 3
    assert _counts(store, plan) == [_listed(fvcore_macs(setup)) for setup in _setups(plan)]


def test_where_torch_sees_a_gpu_there_is_a_driver() -> None:
    assert has_gpu_driver() or not torch.cuda.is_available()
