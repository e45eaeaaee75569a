"""Keys stay what they were, and an identity is read back as it was written."""

import json
import re
from pathlib import Path

import pytest
from builders import ROOT, only_trajectory, write_recipe
from level_keys import PARENT, TEACHER, keys, level_0, level_1, student_of

from dsdctl.keys import TeacherIdentity, canonical_json, key_of
from dsdctl.plan.plan import make_plan
from dsdctl.plan.resolve import resolve
from dsdctl.spec.fields import Model


def identities(folder: Path) -> list[Model]:
    student = student_of(folder, {})
    distillation = student.distillation(TEACHER)
    write_recipe(folder, "close", distill={"teacher": {"sparsest_within": 0.01}})
    return [
        student_of(folder, {"recipes": ["close"]}).identity,
        student.identity,
        student.level_identity(0, None, None),
        student.level_identity(2, PARENT, distillation),
        student.table_identity(TEACHER),
        student.table_identity(TeacherIdentity(weights=64 * "d", network=student.setup.network)),
    ]


def test_an_identity_is_read_back_from_its_json_as_an_equal_model(tmp_path: Path) -> None:
    for identity in identities(tmp_path):
        text = canonical_json(identity)
        read_back = type(identity).model_validate_json(text)
        assert read_back == identity
        assert canonical_json(read_back) == text
        assert key_of(read_back) == key_of(identity)


def test_keys_are_64_hex_digits_and_differ_between_kinds_and_levels(tmp_path: Path) -> None:
    found = [key_of(identity) for identity in identities(tmp_path)]
    assert all(re.fullmatch(r"[0-9a-f]{64}", key) for key in found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("version", ["schema_version", "numerics_version"])
def test_what_another_version_made_has_another_key(tmp_path: Path, version: str) -> None:
    for identity in identities(tmp_path):
        assert key_of(identity.model_copy(update={version: 1})) != key_of(identity)


@pytest.mark.parametrize(
    ("name", "level", "trajectory"),
    [
        (
            "table1-as-published",
            "5813672dac9d5a015daeeec00f54e568cd08c5102632213883bfffde5dadbe3c",
            "0d2004a832ac9b9bc6d13e5b511a7a173ad2e091bd0b7f78981e119045d6666b",
        ),
        (
            "table1",
            "b6333f3efc0d748e32dbb168121868b4f36828735987257abcdb661b5a68ebcb",
            "40ada644056cd4371ae210ebd53000b573e03b2bcb26bb730610db23aa110512",
        ),
    ],
)
def test_two_keys_of_table_1_are_pinned(name: str, level: str, trajectory: str) -> None:
    """Level 0 of the vanilla student of seed 0, and the trajectory taught by a pruned teacher.

    Whatever changes the first orphans everybody's results. It needs SCHEMA_VERSION raised (the
    fields of an identity changed) or NUMERICS_VERSION (the same identity gives other numbers);
    then, and only then, it may be replaced. The second is no key of the store's: it changes with
    what a plan must tell apart, and then jobs in a queue and runs of a tracker begin anew.
    """
    plan = make_plan([resolve(ROOT / "specs" / f"{name}.yaml")])
    students = {row.row.recipe.recipe: row.students[0] for row in plan.rows}
    vanilla = plan.trajectories[students["vanilla"]]
    assert key_of(level_0(vanilla)) == level
    assert students["kd-pruned-teacher"] == trajectory


def test_all_options_of_training_and_pruning_are_pinned_too(tmp_path: Path) -> None:
    """They stand in what is hashed as a spec gives them, and as nothing where it does not."""
    optimizer = {"kind": "adamw", "lr": 0.01, "betas": [0.9, 0.99], "eps": 1e-6}
    changes = {
        "training.optimizer": optimizer,
        "training.schedule": {"kind": "cosine", "warmup": 1, "min_lr_factor": 0.1},
        "training.clip_norm": 1,
        "training.label_smoothing": 0.1,
        "pruning.ignore": ["first"],
    }
    training = json.loads(canonical_json(level_1(only_trajectory(tmp_path, changes))))["training"]
    assert training == {
        "epochs": 4,
        "batch_size": 100,
        "optimizer": {**optimizer, "weight_decay": 1e-4},
        "schedule": changes["training.schedule"],
        "clip_norm": 1,
        "label_smoothing": 0.1,
        "precision": "fp32",
    }
    assert keys(tmp_path, changes)[:2] == (
        "aa85675a4efdc0dfaea9afca419889d1b788572be63191de041c38558e6fe7df",
        "23c7d1e4dc9fc2aee095d240f9b8ba00895396f1d30347e75302cd766d4a04ac",
    )
