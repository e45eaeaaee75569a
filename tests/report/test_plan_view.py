"""What `dsdctl plan` says of pruning and retraining, in words."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import paper_macs, planned, spec_data, write
from typer.testing import CliRunner

from dsdctl.cli.app import app
from dsdctl.plan.progress import Progress
from dsdctl.report.plan.summary import summarize
from dsdctl.report.shortening import short_variant
from dsdctl.store.store import Store
from dsdctl.units import flops


def plan_text(folder: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The printed plan, blanks in a row as one."""
    monkeypatch.setenv("COLUMNS", "200")
    file = write(folder / "spec.yaml", spec_data(changes))
    result = CliRunner().invoke(app, ["plan", str(file), "--store", str(folder / "store")])
    assert result.exit_code == 0, result.output
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("pruning", "words"),
    [
        ({}, "20 % of the remaining weights, over all layers, by magnitude fine-tuned"),
        (
            {"fraction": 0.35},
            "35 % of the remaining weights, over all layers, by magnitude fine-tuned",
        ),
        (
            {"criterion": "random", "scope": "layer", "retrain": "reinit"},
            "20 % of the remaining weights, in each layer, at random "
            "trained from a new initialization",
        ),
        (
            {"criterion": "gradient", "sample": 64, "retrain": "rewind"},
            "20 % of the remaining weights, over all layers, by |weight x gradient| on 64 images "
            "rewound to the initialization",
        ),
        (
            {"criterion": "snip", "sample": 128, "sparsities": [0.9], "retrain": "rewind"},
            "90% in one shot, over all layers, by SNIP of the initialization on 128 images "
            "rewound to the initialization",
        ),
        (
            {"criterion": "synflow", "iterations": 100},
            "20 % of the remaining weights, over all layers, by SynFlow of the initialization "
            "in 100 iterations fine-tuned",
        ),
        (
            {"sparsities": [0.5, 0.875], "retrain": {"mode": "rewind", "epoch": 2}},
            "up to 50, 87.5 %, over all layers, by magnitude rewound to level 0 after 18 batches",
        ),
        (
            {"sparsities": [0.9], "retrain": {"mode": "continue", "lr_scale": 0.1}},
            "90% in one shot, over all layers, by magnitude fine-tuned, rate x 0.1",
        ),
        (
            {"ignore": ["last", "features.0"]},
            "20 % of the remaining weights, over all layers but features.0 and classifier, "
            "by magnitude fine-tuned",
        ),
        ({"criterion": "none", "levels": 3}, "nothing (control) fine-tuned"),
    ],
)
def test_each_way_to_prune_and_retrain_is_named_once_with_its_recipes(
    pruning: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = {} if "sparsities" in pruning or "levels" in pruning else {"levels": 3}
    changes = {
        "recipes": ["vanilla", "early-stop", "kd-pruned-teacher"],
        "seeds": [0, 1],
        "pruning": {**pruning, **rounds},
        "teacher.pruning": {
            "criterion": "magnitude",
            "sample": None,
            "iterations": None,
            "ignore": [],
            "retrain": "continue",
        },
    }
    lines = plan_text(tmp_path, changes, monkeypatch)
    (line,) = [line for line in lines if line.endswith(words)]
    named = set(line.removesuffix(f" {words}").split(", "))
    # The teacher, which is pruned by magnitude and continues, may go the same way.
    assert named - {"teacher"} == {"vanilla", "early-stop", "kd-pruned-teacher"}
    assert ("teacher" in named) is (pruning.keys() <= {"fraction"})


def test_why_a_teacher_has_a_table_or_none_is_in_the_json(tmp_path: Path) -> None:
    def tables(**changes: object) -> list[tuple[bool | None, str | None]]:
        plan = planned(tmp_path, {"recipes": ["vanilla", "kd-dense-teacher"], **changes})
        progress = Progress(plan, Store(tmp_path / "store"))
        shown = summarize(progress, paper_macs).trajectories
        return [(t.teacher_table, t.teacher_table_reason) for t in shown]

    views = {"dataset.augment": {"flip": True, "crop": 4}, "pruning.levels": 0}
    why = "162 views an image are more than the 4 calls it would save"
    assert tables(**views) == [(None, None), (None, None), (False, why)]
    assert tables()[-1] == (True, "1 views an image instead of 16 calls")


def test_a_state_to_rewind_to_is_a_cost_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def early(retrain: object) -> list[str]:
        folder = tmp_path / str(retrain)
        lines = plan_text(folder, {"pruning.retrain": retrain}, monkeypatch)
        return [line for line in lines if line.startswith("rewind checkpoints")]

    assert early("rewind") == []
    (line,) = early({"mode": "rewind", "iteration": 1})
    assert line.startswith("rewind checkpoints 1, level 0's first batches run once more: ")


def test_trajectories_that_differ_in_their_seed_alone_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"matrix": {"student.width": [4, 5]}, "seeds": [0, 7]}
    lines = plan_text(tmp_path, changes, monkeypatch)
    plan = planned(tmp_path, changes)
    for width in (4, 5):
        variant = f"student.width={width}"
        keys = [key[:8] for key, t in plan.trajectories.items() if t.variant == variant]
        (line,) = [line for line in lines if line.startswith(" ".join(keys))]
        assert line.startswith(f"{' '.join(keys)} student vgg-like {variant} 0, 7 4 0, 0 ")
    (order,) = [line for line in lines if line.startswith("at once, 4 side by side: ")]
    assert "vanilla [student.width=4] seeds 0, 7; vanilla [student.width=5] seeds 0, 7" in order


def test_a_plan_of_several_specs_says_what_they_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    one = write(tmp_path / "one.yaml", spec_data({"experiment": "one", "seeds": [0, 1]}))
    changes = {"experiment": "two", "recipes": ["early-stop"], "seeds": [1, 2]}
    two = write(tmp_path / "two.yaml", spec_data(changes))
    store = str(tmp_path / "store")
    result = CliRunner().invoke(app, ["plan", str(one), str(two), "--store", store])
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    start = lines.index("trajectories shared by several specs")
    assert lines[start + 1] == "one, two: 1"
    assert any("one: vanilla; two: early-stop" in line for line in lines)
    assert [line.split()[:2] for line in lines if line.startswith(("one: ", "two: "))] == [
        ["one:", "vanilla"],
        ["two:", "early-stop"],
    ]


def test_a_long_plan_is_shortened_on_the_console_and_whole_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsdctl.report.shortening.MAX_ROWS", 10)
    changes = {
        "matrix": {"training.optimizer.lr": [n / 1000 for n in range(1, 23)]},
        "recipes": ["vanilla", "kd-dense-teacher"],
        "seeds": list(range(21)),
        "pruning.levels": 0,
    }
    lines = plan_text(tmp_path, changes, monkeypatch)
    # 44 recipes; as many sets of students and 22 teachers; a table each.
    more = [line for line in lines if line.endswith("more rows, which JSON has")]
    assert [int(line.split()[1]) for line in more] == [44 - 10, 66 - 10, 22 - 10]
    seeds = f"seeds {', '.join(map(str, range(20)))}, and 1 more"
    order = " ".join(lines[[line.startswith("order of work") for line in lines].index(True) :])
    assert f"at once, 484 side by side: vanilla [training.optimizer.lr=0.001] {seeds}; " in order
    assert "; and 24 more after level 0 of teacher" in order
    assert order.count("after level 0 of teacher") == 19
    assert f"{seeds} and 3 more lines costs" in " ".join(order.split())
    command = ["plan", str(tmp_path / "spec.yaml"), "--json", "--store", str(tmp_path / "store")]
    summary = json.loads(CliRunner().invoke(app, command).stdout)
    counts = [len(summary[part]) for part in ("recipes", "trajectories", "teacher_tables")]
    assert counts == [44, 22 * (2 * 21 + 1), 22]


@pytest.mark.parametrize("width", [80, 100])
def test_in_a_narrow_window_no_word_is_broken(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    changes = {
        "recipes": ["vanilla", "early-stop", "kd-dense-teacher", "kd-pruned-teacher"],
        "matrix": {"training.optimizer.weight_decay": [0.0001, 0.0005]},
        "seeds": [0, 1, 2, 3, 4],
    }
    file = write(tmp_path / "spec.yaml", spec_data(changes))
    command = ["plan", str(file), "--store", str(tmp_path / "store")]
    text = CliRunner().invoke(app, command).stdout
    assert max(map(len, text.splitlines())) <= width
    words = set(text.replace("[", " ").replace("]", " ").replace(",", " ").split())
    plan = planned(tmp_path, changes)
    wanted = {"vgg-like", "weight_decay=0.0001", "weight_decay=0.0005", *changes["recipes"]}
    wanted |= {t.key[:8] for t in plan.trajectories.values() if t.seed == 0}
    assert wanted <= words
    assert "+4" in words and "0/20" in words


@pytest.mark.parametrize(
    ("variant", "short"),
    [
        ("student.width=4, label_noise.rate=0.2", "width=4, rate=0.2"),
        ("student.width=4, teacher.width=8", "student.width=4, teacher.width=8"),
        ("pruning.sparsities=[0.5, 0.8]", "pruning.sparsities=[0.5, 0.8]"),
        ("", ""),
    ],
)
def test_paths_are_shortened_where_their_last_words_differ(variant: str, short: str) -> None:
    assert short_variant(variant) == short


@pytest.mark.parametrize(
    ("pflops", "said"),
    [
        (48.84, "48.84 PFLOPs"),
        (0.1, "0.10 PFLOPs"),
        (0.00031, "0.31 TFLOPs"),
        (7.25e-6, "7.25 GFLOPs"),
        (2.8e-8, "0.028 GFLOPs"),
        (0.0, "0 PFLOPs"),
    ],
)
def test_costs_are_given_in_a_unit_that_fits_them(pflops: float, said: str) -> None:
    assert flops(pflops) == said
