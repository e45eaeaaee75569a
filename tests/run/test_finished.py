"""What a run that ended leaves: its report in each format, its plan, and a second run."""

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY, Dsdctl

from dsdctl.ml.kernels import kernels
from dsdctl.run.event_log import read_events
from dsdctl.units import flops_unit, magnitude


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.yaml and a store in which it was run to its end."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(TINY)
    done = _run(folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "dsdctl", "run", "tiny.yaml", *arguments]
    settings = {"cwd": folder, "capture_output": True, "text": True, "timeout": 200}
    # Else it would get the COLUMNS that readline sets behind Python's back.
    return subprocess.run(line, env=dict(os.environ), check=False, **settings)


def _level_files(store: Path) -> dict[str, bytes]:
    """Everything that a level is, but for how long it took."""
    timed = {"environment.json", "checksums.json"}
    return {
        str(file.relative_to(store)): file.read_bytes()
        for file in store.glob("levels/*/*/*")
        if file.name not in timed
    }


def _report(dsdctl: Dsdctl, folder: Path, *arguments: str) -> dict:
    done = dsdctl("report", "tiny.yaml", "--format", "json", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.numerics
def test_the_comparison_names_all_recipes_and_is_complete(finished: Path, dsdctl: Dsdctl) -> None:
    report = _report(dsdctl, finished)
    assert report["complete"]
    assert [row["recipe"] for row in report["rows"]] == [
        "vanilla",
        "early-stop",
        "kd-dense-teacher",
        "kd-pruned-teacher",
        "entropy-early-stop",
    ]
    printed = (finished / "stdout").read_text()
    for row in report["rows"]:
        assert row["recipe"] in printed
        assert f"{100 * row['test_accuracy']['mean']:.2f} ±" in printed


def test_a_run_writes_what_happened_beside_its_log(finished: Path, dsdctl: Dsdctl) -> None:
    log = min((finished / "dsdctl-store/logs").glob("*.log"))
    first, *events, last = read_events(log.with_suffix(".jsonl"))
    assert (first.event, last.event) == ("run-started", "run-ended")
    assert first.levels_missing >= last.levels_run > 0
    started = [event.key for event in events if event.event == "started"]
    done = [event for event in events if event.event == "finished"]
    assert len(set(started)) == len(started) == len(done)
    assert set(started) == {event.key for event in done}
    assert [event.time for event in events] == sorted(event.time for event in events)
    tables = list(finished.glob("dsdctl-store/tables/*/*"))
    assert {e.key for e in done if e.piece == "table"} == {folder.name for folder in tables}
    report = _report(dsdctl, finished)
    for row in report["rows"]:
        for seed, why, trainings in zip(
            row["seeds"], row["stop_reasons"], row["trainings"]["values"], strict=True
        ):
            line = f"tiny: {row['recipe']}, seed {seed}: {why} after {trainings:.0f} trainings, "
            assert line in log.read_text()
    levels = {
        level["key"]: level
        for trajectory in report["trajectories"]
        for level in trajectory["levels"]
    }
    assert {event.key for event in done if event.piece == "level"} == set(levels)
    shown = (finished / "stderr").read_text()
    for event in done:
        if event.piece == "level":
            for name in ("level", "test_accuracy", "sparsity", "wall_seconds"):
                assert getattr(event, name) == levels[event.key][name]
            assert f"{event.images_per_second:,.0f} images/s" in shown
    assert shown.count(" at most\n") >= len(levels) - 1


def test_a_second_run_computes_nothing_and_prints_the_same(finished: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.glob("dsdctl-store/levels/*/*")}
    again = _run(finished)
    assert again.returncode == 0
    assert again.stdout == (finished / "stdout").read_text()
    assert "level" not in again.stderr
    after = {file: file.stat().st_mtime_ns for file in finished.glob("dsdctl-store/levels/*/*")}
    assert after == before


@pytest.mark.numerics
def test_the_same_command_gives_the_same_bytes_whatever_the_jobs(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    again = _run(tmp_path, "--jobs", "1")
    assert again.returncode == 0
    assert again.stdout == (finished / "stdout").read_text()
    first = _level_files(finished / "dsdctl-store")
    assert first
    assert _level_files(tmp_path / "dsdctl-store") == first


def test_vanilla_and_early_stop_read_the_same_trajectories(finished: Path, dsdctl: Dsdctl) -> None:
    rows = {row["recipe"]: row for row in _report(dsdctl, finished)["rows"]}
    assert rows["vanilla"]["trajectory_keys"] == rows["early-stop"]["trajectory_keys"]
    assert rows["vanilla"]["trainings"]["values"] == [4, 4]
    assert rows["vanilla"]["stop_reason"] == "all levels run"


@pytest.mark.numerics
def test_nonzero_pflops_are_the_paper_s_less_what_was_pruned_of_each_layer(
    finished: Path, dsdctl: Dsdctl
) -> None:
    """The MACs in closed form: 8x8 pixels, 3x3 kernels of 1 -> 4 -> 4 channels, 10 classes."""
    macs = {"features.0": 9 * 4 * 64, "features.3": 9 * 4 * 4 * 64, "classifier": 4 * 2 * 2 * 10}
    images, epochs = 862, 2
    report = _report(dsdctl, finished)
    trajectories = {trajectory["key"]: trajectory for trajectory in report["trajectories"]}
    for row in report["rows"]:
        for index, key in enumerate(row["trajectory_keys"]):
            levels = trajectories[key]["levels"][: row["trainings"]["values"][index]]
            pruned = sum(
                macs[name.removesuffix(".weight")] * (1 - density)
                for level in levels
                for name, density in level["density_per_layer"].items()
            )
            expected = row["pflops"]["values"][index] - 3 * pruned * images * epochs / 1e15
            assert row["pflops_nonzero"]["values"][index] == pytest.approx(expected, rel=1e-9)
    printed = dsdctl("report", "tiny.yaml", "--notes", cwd=finished).stdout
    assert "Non-zero PFLOPs: the same without the teacher" in " ".join(printed.split())


def test_each_format_holds_the_rows(finished: Path, dsdctl: Dsdctl) -> None:
    def out(style: str) -> str:
        done = dsdctl("report", "tiny.yaml", "--format", style, cwd=finished)
        assert done.returncode == 0, done.stderr
        return done.stdout

    vanilla, _ = [line for line in out("markdown").splitlines() if "| vanilla |" in line]
    rows = _report(dsdctl, finished)["rows"]
    unit = flops_unit(max(row["total_pflops"] for row in rows))
    nonzero = magnitude(unit.per_pflop * rows[0]["pflops_nonzero"]["mean"])
    assert f" | {nonzero} | " in vanilla  # the second line is among the findings
    latex = out("latex")
    assert latex.count("\\checkmark") == 1 + 2 + 3 + 1
    assert "\\toprule" in latex
    lines = list(csv.DictReader(io.StringIO(out("csv"))))
    assert {line["role"] for line in lines} == {"student", "teacher"}
    vanilla = [line for line in lines if line["recipe"] == "vanilla"]
    assert [int(line["level"]) for line in vanilla] == [0, 1, 2, 3] * 2
    assert sum(line["selected"] == "True" for line in vanilla) == 2
    assert {float(line["test_accuracy"]) > 0 for line in lines} == {True}


def test_output_goes_to_a_file(finished: Path, dsdctl: Dsdctl, tmp_path: Path) -> None:
    target = tmp_path / "table.md"
    arguments = ("report", "tiny.yaml", "--format", "markdown", "--output", target)
    done = dsdctl(*arguments, cwd=finished)
    assert done.returncode == 0
    assert done.stdout == ""
    assert "| vanilla |" in target.read_text()


@pytest.mark.linux
def test_an_output_is_utf_8_whatever_the_locale_and_the_names_of_files(
    finished: Path, dsdctl: Dsdctl, tmp_path: Path
) -> None:
    """The name of a file may be no text at all; the page says how to run it."""
    spec = tmp_path / os.fsdecode(b"t\xffny.yaml")
    spec.write_text(TINY)
    ascii_only = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    arguments = ("report", spec, "--store", finished / "dsdctl-store", "--output", "page.html")
    done = dsdctl(*arguments, env=ascii_only)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "±" in page
    assert "t\\udcffny.yaml" in page


def test_an_output_that_cannot_be_written_is_bad_input(finished: Path, dsdctl: Dsdctl) -> None:
    done = dsdctl("report", "tiny.yaml", "--output", "/nowhere/table.md", cwd=finished)
    assert done.returncode == 2
    assert "/nowhere/table.md: No such file or directory" in done.stderr


def test_figures_are_written_where_a_user_wants_them(
    finished: Path, tmp_path: Path, dsdctl: Dsdctl
) -> None:
    there = tmp_path / "some" / "figures"
    done = dsdctl("report", "tiny.yaml", "--figures", there, cwd=finished)
    assert done.returncode == 0, done.stderr
    assert done.stdout == dsdctl("report", "tiny.yaml", cwd=finished).stdout
    assert sorted(file.name for file in there.iterdir()) == [
        f"tiny-{name}.{ending}"
        for name in ("curves", "memorisation", "pflops")
        for ending in ("pdf", "png", "svg")
    ]
    without = dsdctl("report", "tiny.yaml", "--style", "slides", cwd=finished)
    assert (without.returncode, without.stderr) == (2, "--style, --width: only with --figures\n")
    refused = dsdctl("report", "tiny.yaml", "--figures", finished / "tiny.yaml", cwd=finished)
    assert refused.returncode == 2
    assert refused.stderr.endswith("tiny.yaml: File exists\n")


def test_plan_knows_what_is_done_and_how_long_the_rest_takes(
    finished: Path, dsdctl: Dsdctl
) -> None:
    done = dsdctl("plan", "tiny.yaml", "--json", cwd=finished)
    totals = json.loads(done.stdout)["totals"]
    assert totals["trainings_done"] == totals["trainings"] > 0
    assert totals["pflops_to_run"] == 0
    assert totals["seconds_estimate"] == 0


def test_plan_json_is_as_documented(finished: Path, dsdctl: Dsdctl) -> None:
    plan = json.loads(dsdctl("plan", "tiny.yaml", "--json", cwd=finished).stdout)
    assert list(plan) == [
        "schema", "experiment", "recipes", "trajectories", "teacher_tables", "totals", "cluster",
    ]  # fmt: skip
    assert list(plan["recipes"][0]) == [
        "recipe", "variant", "trainings_max", "pflops_max", "teacher_trainings_max",
        "teacher_pflops_max",
    ]  # fmt: skip
    assert list(plan["trajectories"][0]) == [
        "key", "variant", "roles", "arch", "seed", "levels", "macs_per_image",
        "pflops_per_training", "used_by", "needs", "levels_done", "flip_rate", "flip_rate_exact",
        "levels_to_restore", "teacher_table", "teacher_table_reason",
    ]  # fmt: skip
    assert list(plan["teacher_tables"][0]) == [
        "key", "forwards", "pflops", "bytes", "done", "used_by",
    ]  # fmt: skip
    assert list(plan["totals"]) == [
        "trainings", "trainings_done", "pflops_attributed", "pflops_to_run", "seconds_estimate",
        "disk_bytes", "trainings_to_restore",
    ]  # fmt: skip


def test_report_json_is_as_documented(finished: Path, dsdctl: Dsdctl) -> None:
    report = _report(dsdctl, finished)
    assert list(report) == [
        "schema", "experiment", "title", "complete", "selected_on", "rows", "trajectories",
        "curves", "same_for_all_seeds", "warning", "deviations", "answers",
        "networks",
    ]  # fmt: skip
    assert list(report["rows"][0]) == [
        "recipe", "variant", "title", "early_stop", "distillation", "pruned_teacher", "seeds",
        "trajectory_keys", "level", "stopped_at", "trainings", "pflops", "teacher_pflops",
        "teacher_level", "test_accuracy", "sparsity", "stop_reason", "phase", "reference",
        "label_noise", "flip_rate", "pflops_nonzero", "axes", "teacher_keys", "stop_reasons",
        "diverged_at", "environments", "trainings_max", "select", "total_pflops",
        "teacher_trainings", "wall_seconds", "teacher_wall_seconds",
        "removable_layers", "difference",
    ]  # fmt: skip
    assert list(report["answers"][0]) == [
        "variant", "axes", "sparsest_within", "complete", "recommended", "saved",
    ]  # fmt: skip
    assert list(report["trajectories"][0]) == [
        "key", "variant", "roles", "used_by", "seed", "levels", "pflops_per_training",
    ]  # fmt: skip
    assert set(report["trajectories"][0]["levels"][0]) == {
        "key", "kind", "level", "train_accuracy", "flip_rate", "fitted_noisy", "fitted_true",
        "train_loss", "validation_accuracy", "test_accuracy", "entropy_bits",
        "entropy_bits_per_layer",
        "total_weights", "nonzero_weights", "sparsity", "density_per_layer", "learning_distance",
        "warnings", "environment", "wall_seconds",
    }  # fmt: skip
    assert list(report["curves"][0]) == [
        "recipe", "variant", "levels", "mean_test_accuracy", "dip", "sparse_double_descent",
        "reason", "dip_levels", "phases", "interpolation_threshold", "mean_sparsity",
        "mean_train_accuracy", "mean_fitted_noisy", "mean_fitted_true",
    ]  # fmt: skip


@pytest.mark.long
def test_a_damaged_level_is_quarantined_and_recomputed(
    finished: Path, tmp_path: Path, dsdctl: Dsdctl
) -> None:
    store = tmp_path / "dsdctl-store"
    shutil.copytree(finished / "dsdctl-store", store)
    shutil.copy(finished / "tiny.yaml", tmp_path)
    damaged = next(iter(sorted(store.glob("levels/*/*/result.json"))))
    damaged.write_text(damaged.read_text().replace('"level"', '"lovel"'))
    assert "checksum mismatch (counts as missing)" in dsdctl("status", "tiny.yaml").stderr
    again = _run(tmp_path)
    assert again.returncode == 0
    assert "quarantined" in again.stderr
    assert len(list((store / "setaside").iterdir())) == 1
    assert _level_files(store) == _level_files(finished / "dsdctl-store")


@pytest.mark.numerics
def test_a_report_over_several_environments_says_so(
    finished: Path, tmp_path: Path, dsdctl: Dsdctl
) -> None:
    shutil.copytree(finished / "dsdctl-store", tmp_path / "dsdctl-store")
    shutil.copy(finished / "tiny.yaml", tmp_path)
    assert "Mixed environments" not in dsdctl("report", "tiny.yaml").stdout
    folder = next((tmp_path / "dsdctl-store/levels").glob("*/*"))
    file, checksums = folder / "environment.json", folder / "checksums.json"
    there = json.loads(file.read_text())
    assert there["threads"] == 1
    chosen = [f"{k} {c.instructions}" for k, c in kernels.choices().items() if c.instructions]
    assert there["kernels"] == chosen
    assert there["compiled_kernels"] == bool(chosen)
    file.write_text(json.dumps({**json.loads(file.read_text()), "torch": "1.0"}))
    entry = {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    checksums.write_text(json.dumps({**json.loads(checksums.read_text()), file.name: entry}))
    printed = dsdctl("report", "tiny.yaml").stdout
    assert "Mixed environments: torch 1.0 on cpu" in " ".join(printed.split())
