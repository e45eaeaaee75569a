"""`python -m tests.gpu` rehearsed without a GPU: what it runs, keeps and says; and the doctor's."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ROOT

from dsdctl.bench import gpu as doctor
from dsdctl.ml.graph import Capture
from dsdctl.system.devices import has_gpu_driver
from gpu.images import decoded, first_images
from gpu.profiling import summary
from gpu.sizing import Rates, brief_seconds, largest, milestones


def rehearsed(out: Path, *words: object) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run the command; what it printed, and each stage's JSON."""
    line = [sys.executable, "-m", "tests.gpu", "--device", "cpu", "--tiny", "--out", str(out)]
    done = subprocess.run(
        [*line, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    files = {stage: out / f"{stage}.json" for stage in ("right", "fast", "table1")}
    return done, {
        stage: json.loads(file.read_text()) if file.exists() else {}
        for stage, file in files.items()
    }


@pytest.mark.long
@pytest.mark.timeout(900)
def test_all_stages_end_with_their_results_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done, found = rehearsed(out, "--minutes", 12)
    log = (out / "log.txt").read_text()
    assert done.returncode == 0, done.stdout + log
    outcomes = {check["check"]: check["outcome"] for check in found["right"]["checks"]}
    assert len(outcomes) == 14
    assert {name for name, outcome in outcomes.items() if outcome != "pass"} == {"a_full_memory"}
    assert all(rate["images_per_second"] > 0 for rate in found["fast"]["rates"])
    assert {"student, recorded", "student, as it is"} == found["fast"]["profiles"].keys()
    assert found["fast"]["ceilings"]["copy_bytes_per_second"] > 0
    assert found["table1"]["brief"]["state"] == "complete"
    assert found["table1"]["whole"]["planned_hours"] >= 0
    report = json.loads((out / "report.json").read_text())
    assert len(report["rows"]) == 4
    assert len(json.loads((out / "dense.json").read_text())["epochs"]) == 2
    assert {file.name for file in out.iterdir()} == {
        "right.json", "fast.json", "table1.json", "dense.json", "table1.yaml", "report.json",
        "report.txt", "log.txt",
    }  # fmt: skip


@pytest.mark.long
def test_a_stage_that_its_box_cuts_off_does_not_stop_the_next(tmp_path: Path) -> None:
    done, found = rehearsed(tmp_path, "--minutes", 0.04)
    assert done.returncode == 1
    assert "right: was cut off by its box after" in done.stdout
    assert "fast: up to 1 s" in done.stdout
    assert "table1: up to 1 s" in done.stdout
    assert not any(one.get("finished") and one["ok"] for one in found.values())


@pytest.mark.skipif(has_gpu_driver(), reason="there is a GPU")
def test_without_a_gpu_the_command_says_so_and_writes_nothing(tmp_path: Path) -> None:
    done, _ = rehearsed(tmp_path / "out", "--device", "cuda")
    assert done.returncode == 2
    assert "--device: cuda, but there is no driver of a GPU here" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_a_stage_fails_at_is_kept_and_the_rest_is_done(tmp_path: Path) -> None:
    line = ("--only", "table1", "--images", tmp_path / "none.npz", "--dense-epochs", 0)
    done, found = rehearsed(tmp_path / "out", *line)
    assert done.returncode == 1
    assert found["table1"]["finished"]
    assert not found["table1"]["ok"]
    assert "No such file" in found["table1"]["errors"][0]
    assert found["table1"]["dense"] == {"left out": "not wanted"}
    assert "error: images: FileNotFoundError" in done.stdout


def test_a_profile_counts_kernels_and_the_time_without_any() -> None:
    events = [("a", 0.0, 10.0), ("b", 5.0, 10.0), ("a", 30.0, 20.0), ("c", 60.0, 5.0)]
    found = summary(events, steps=2, wall_us=80.0)
    assert found["kernels_per_step"] == 2
    assert found["device_us_per_step"] == (15 + 20 + 5) / 2
    assert found["host_share"] == 0.5
    assert [(one["kernel"], one["times_per_step"]) for one in found["top"]] == [
        ("a", 1.0), ("b", 0.5), ("c", 0.5),
    ]  # fmt: skip


RATES = Rates(student=1e5, distilled=8e4, teacher=3e4, forwards=1e5)


def test_a_brief_table_1_fits_and_one_with_more_images_does_not() -> None:
    for seconds in (100.0, 200.0, 1000.0):
        size = largest(seconds, RATES, RATES, 50_000)
        assert size is not None
        assert brief_seconds(size, RATES, RATES) <= seconds
        more = type(size)(size.epochs, size.levels, size.images + 1000)
        assert brief_seconds(more, RATES, RATES) > seconds
    assert largest(10.0, RATES, RATES, 50_000) is None
    everything = largest(math.inf, RATES, RATES, 50_000)
    assert everything is not None and everything.images == 50_000


def test_milestones_are_at_half_and_three_quarters_within_the_epochs() -> None:
    assert milestones(160) == [80, 120]
    assert milestones(20) == [10, 15]
    assert milestones(2) == [1]
    assert milestones(1) == []


def test_jpegs_are_decoded_in_their_order_with_their_labels(tmp_path: Path) -> None:
    draw, arrays, pixels = np.random.default_rng(0), {}, {}
    for split, count in (("train", 7), ("test", 3)):
        files = []
        for index in range(count):
            image = np.full((32, 32, 3), 20 * index, dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / "one.jpg", quality=95)
            files.append((tmp_path / "one.jpg").read_bytes())
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(files), dtype=np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{split}_labels"] = draw.integers(0, 10, count).astype(np.uint8)
        pixels[split] = [20 * index for index in range(count)]
    np.savez(tmp_path / "jpegs.npz", **arrays)
    with np.load(decoded(tmp_path / "jpegs.npz", tmp_path / "images.npz")) as found:
        for split in ("train", "test"):
            assert found[f"x_{split}"].shape[1:] == (32, 32, 3)
            centres = found[f"x_{split}"][:, 16, 16, 0].astype(int)
            assert np.abs(centres - pixels[split]).max() < 10
            assert found[f"y_{split}"].tolist() == arrays[f"{split}_labels"].tolist()
    with np.load(first_images(tmp_path / "images.npz", tmp_path / "few.npz", 4)) as few:
        assert (len(few["x_train"]), len(few["y_train"]), len(few["x_test"])) == (4, 4, 3)


# What `dsdctl doctor` tries on a GPU, with stand-ins for a recording


@pytest.fixture
def capture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "capture_on", lambda _device: request.param)


def faithful(function: Any) -> Any:
    return function


def unfaithful(function: Any) -> Any:
    return lambda: (function(), function())


def impossible(function: Any) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.mark.usefixtures("one_deterministic_thread", "capture")
@pytest.mark.parametrize(
    ("capture", "line", "good"),
    [
        (faithful, "are recorded and replayed as one graph", True),
        (unfaithful, "makes them slow: the recorded step gives other results", False),
        (impossible, "slow: operation not permitted when stream is capturing", False),
        (None, "steps are not recorded on such a device", True),
    ],
    indirect=["capture"],
)
def test_the_doctor_says_whether_steps_are_recorded_and_why_not(line: str, good: bool) -> None:
    found, healthy = doctor.recorded("cpu")
    assert found.endswith(line)
    assert healthy is good


@pytest.mark.usefixtures("one_deterministic_thread")
def test_the_doctor_tells_kernels_that_repeat_from_those_that_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert doctor.repeats("cpu")[1]
    found, healthy = doctor.speed("cpu", seconds=0)
    assert healthy
    assert "images/s in bf16" in found
    results = iter([{"w": torch.zeros(2)}, {"w": torch.tensor([0.0, 1e-7])}])

    def trained(_device: str, _capture: Capture | None) -> dict[str, torch.Tensor]:
        return next(results)

    monkeypatch.setattr(doctor, "_trained", trained)
    assert doctor.repeats("cpu") == (
        "kernels are NOT deterministic: a training done twice gave other bytes", False,
    )  # fmt: skip


def test_the_doctor_goes_on_where_a_gpu_cannot_be_used() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ((line, good),) = doctor.examine_gpu(0)
    assert line.startswith("GPU 0: ")
    assert not good
