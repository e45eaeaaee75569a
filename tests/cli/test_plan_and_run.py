"""What a plan counts is what a run then does: levels, rewind checkpoints, tables and PFLOPs."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import spec_data, write, write_recipe
from tiny import Dsdctl

from dsdctl.cost.ledger import fvcore_macs
from dsdctl.plan.plan import make_plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.resolve import resolve
from dsdctl.report.ledger import executed
from dsdctl.store.store import Store

QUICK = {
    "student": {"arch": "vgg-like", "depth": 1, "width": 4, "pool": 2},
    "teacher": {"arch": "vgg-like", "depth": 1, "width": 6, "pool": 2},
    "training": {"epochs": 2, "batch_size": 200},
    "pruning": {"levels": 1, "fraction": 0.3},
}

SPECS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    # One teacher and table; one level 0 of the student, and a level 1 for each way to retrain.
    "ways-to-retrain": (
        {
            "recipes": ["kd-dense-teacher"],
            "matrix": {"pruning.retrain": ["rewind", "reinit", "continue"]},
        },
        (1 + 1 + 3, 0, 1),
    ),
    # Both sets of levels rewind to one state; level 1 of the teacher differs with the fraction.
    "early-states": (
        {
            "recipes": ["kd-dense-teacher", "kd-level-1"],
            "pruning.retrain": {"mode": "rewind", "epoch": 1},
            "matrix": {"pruning.fraction": [0.3, 0.6]},
        },
        (1 + 2 + (1 + 2) + 2 * 2, 1 + 1 + 2, 1 + 2),
    ),
    # What a student reads of a table depends on its precision, and so does the table's.
    "precisions": (
        {
            "recipes": ["kd-dense-teacher"],
            "pruning.levels": 0,
            "teacher.training": {"precision": "fp32"},
            "matrix": {"training.precision": ["fp32", "bf16"]},
        },
        (1 + 2, 0, 2),
    ),
    # Lists that begin alike share these levels, of the student and of its teacher.
    "lists": (
        {
            "recipes": ["kd-level-1"],
            "pruning": {},
            "matrix": {"pruning.sparsities": [[0.5, 0.8], [0.5, 0.9]]},
        },
        (2 + 2 + 2, 0, 1),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("name", SPECS)
def test_a_plan_counts_what_is_run(name: str, tmp_path: Path, dsdctl: Dsdctl) -> None:
    changes, (levels, states, tables) = SPECS[name]
    write_recipe(tmp_path, "kd-level-1", distill={"teacher": {"level": 1}})
    spec = write(tmp_path / "spec.yaml", spec_data({**QUICK, **changes}))

    def planned() -> dict[str, Any]:
        done = dsdctl("plan", spec, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    before = planned()
    assert before["totals"]["trainings"] == levels
    assert len(before["teacher_tables"]) == tables
    ran = dsdctl("run", spec)
    assert ran.returncode == 0, ran.stderr

    store = tmp_path / "dsdctl-store"
    assert len(list(store.glob("levels/*/*"))) == levels + states
    assert len(list(store.glob("tables/*/*"))) == tables
    progress = Progress(make_plan([resolve(spec)]), Store(store))
    pflops = sum(piece.pflops for piece in executed(progress, fvcore_macs))
    assert before["totals"]["pflops_to_run"] == pytest.approx(pflops)

    totals = planned()["totals"]
    assert totals["trainings"] == totals["trainings_done"] == levels
    assert totals["pflops_to_run"] == totals["disk_bytes"] == 0


def test_teachers_that_share_their_level_0_begin_with_one_piece_of_work(
    tmp_path: Path, dsdctl: Dsdctl
) -> None:
    changes, _ = SPECS["ways-to-retrain"]
    spec = write(tmp_path / "spec.yaml", spec_data({**QUICK, **changes}))
    lines = dsdctl("plan", spec).stdout.splitlines()
    assert any(line.startswith("  at once, 1 side by side: teacher [") for line in lines)


def test_students_of_levels_chosen_by_other_rules_are_counted_apart(
    tmp_path: Path, dsdctl: Dsdctl
) -> None:
    rules = {
        "by-best": "best",
        "by-sparsest": {"sparsest_within": 0.01},
        "by-sparser": {"sparsest_within": 0.1},
    }
    for name, rule in rules.items():
        write_recipe(tmp_path, name, distill={"teacher": rule})
    spec = write(tmp_path / "spec.yaml", spec_data({**QUICK, "recipes": [*rules]}))
    plan = json.loads(dsdctl("plan", spec, "--json").stdout)
    assert plan["totals"]["trainings"] == 2 + 3 * 2
    assert len(plan["teacher_tables"]) == 3
