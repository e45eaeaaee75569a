"""Data are made ready before a run's work begins; what cannot be had stops only its own work."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from archives import Cifar, write_image_folder
from builders import paper_macs, planned, spec_data, write
from rich.console import Console
from soak import called

from dsdctl.cli.display import counted
from dsdctl.cli.listener import ConsoleProgress
from dsdctl.plan.plan import Plan, make_plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.resolve import resolve
from dsdctl.report.notes import notes
from dsdctl.report.plan.summary import summarize
from dsdctl.report.plan.tables import data_lines, direct_teacher_lines
from dsdctl.report.table import make_report
from dsdctl.run.event_log import read_events
from dsdctl.run.prepare import prepare_all
from dsdctl.store.store import Store
from dsdctl.system.torchvision import datasets as torchvision_datasets

FOLDER: dict[str, Any] = {
    "dataset": {
        "name": "image-folder",
        "root": "pictures",
        "size": {"resize": 16, "crop": 14, "test_crop": 12},
    },
    "label_noise": {"kind": "symmetric-all", "rate": 0.5},
    "teacher": {"arch": "vgg-like", "depth": 1, "width": 3, "pool": 2},
    "student": {"arch": "vgg-like", "depth": 1, "width": 3, "pool": 2},
    "training": {"epochs": 1, "batch_size": 12},
    "pruning": {"levels": 0},
    "recipes": ["vanilla", "kd-dense-teacher"],
}


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestPrepareAll:
    def test_says_how_far_it_is_and_nothing_where_all_is_there(
        self, tmp_path: Path, console: Console
    ) -> None:
        write_image_folder(tmp_path / "pictures")
        plan = planned(tmp_path, {**FOLDER, "seeds": [0, 1]})
        everything = plan.trajectories.values()
        assert prepare_all(everything, tmp_path / "spare", ConsoleProgress(console)) == {}
        assert said(console).splitlines() == [
            "image-folder: 24 of 48 images prepared",
            "image-folder: 48 of 48 images prepared",
        ]
        again = Console(file=io.StringIO())
        assert prepare_all(everything, tmp_path / "spare", ConsoleProgress(again)) == {}
        assert said(again) == ""

    def test_tries_a_data_set_once_and_fails_all_that_need_it(
        self, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries: list[object] = []

        def no_network(dataset: object) -> None:
            tries.append(dataset)
            raise OSError("network is unreachable")

        monkeypatch.setattr(torchvision_datasets.CIFAR10, "download", no_network)
        specs = [
            resolve(
                write(
                    tmp_path / f"{name}.yaml", spec_data({"experiment": name, "dataset": dataset})
                )
            )
            for name, dataset in (
                ("one", {"name": "cifar10", "root": "absent"}),
                ("two", {"name": "cifar10", "root": "absent", "split_seed": 1}),
                ("three", spec_data()["dataset"]),
            )
        ]
        plan = make_plan(specs)
        assert len(plan.trajectories) == 3
        failures = prepare_all(
            plan.trajectories.values(), tmp_path / "spare", ConsoleProgress(console)
        )
        assert list(failures) == list(plan.trajectories)[:2]
        (reason,) = set(failures.values())
        assert reason.startswith(f"dataset cifar10: not found under {tmp_path}/absent")
        assert len(tries) == 1

    def test_finds_and_mends_damage(
        self, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Cifar(tmp_path, "cifar10").publish(monkeypatch)
        changes = {"dataset": {"name": "cifar10", "root": "."}, "training.batch_size": 8}
        everything = planned(tmp_path, changes).trajectories.values()
        prepare_all(everything, tmp_path / "spare", ConsoleProgress(console))
        file = tmp_path / "dsdctl-prepared" / "cifar10-1" / "train_images.npy"
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert prepare_all(everything, tmp_path / "spare", ConsoleProgress(console)) == {}
        assert file.read_bytes() == whole
        assert said(console).count("cifar10: 310 of 310 images prepared") == 2


class TestDisplay:
    def test_is_a_line_now_and_then_in_a_log(self, console: Console) -> None:
        with counted(console, "flowers102", "images prepared") as show:
            for done in range(100, 7200, 100):
                show(done, 7169)
            show(7169, 7169)
        assert said(console).splitlines() == [
            "flowers102: 100 of 7,169 images prepared",
            "flowers102: 7,169 of 7,169 images prepared",
        ]

    def test_is_a_bar_on_a_terminal(self) -> None:
        terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
        with counted(terminal, "flowers102", "images prepared") as show:
            show(100, 7169)
            show(7169, 7169)
        assert "flowers102: images prepared" in said(terminal)
        assert "7169/7169" in said(terminal)
        assert "━" in said(terminal)

    def test_is_nothing_where_nothing_is_prepared(self, console: Console) -> None:
        terminal = Console(file=io.StringIO(), force_terminal=True)
        for where in (console, terminal):
            with counted(where, "flowers102", "images prepared"):
                pass
            assert said(where) == ""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which FOLDER was run by the command, with its images on the disk."""
    folder = tmp_path_factory.mktemp("ran")
    write_image_folder(folder / "pictures")
    write(folder / "spec.yaml", spec_data(FOLDER))
    line = [sys.executable, "-m", "dsdctl", "run", "spec.yaml", "--memory", "0", "--jobs", "1"]
    wide = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(
        line, cwd=folder, capture_output=True, text=True, timeout=200, check=False, env=wide
    )
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


def plan_of(folder: Path) -> Plan:
    return make_plan([resolve(folder / "spec.yaml")])


def test_a_run_prepares_its_images_first_and_once(ran: Path) -> None:
    lines = (ran / "stderr").read_text().splitlines()
    assert lines[1] == "image-folder: 48 of 48 images prepared"
    assert sum("images prepared" in line for line in lines) == 2
    assert len(list((ran / "pictures" / "dsdctl-prepared").glob("image-folder-1-16-14-*"))) == 1
    assert not (ran / "dsdctl-store" / "prepared").exists()


def test_the_plan_says_what_is_expected_and_then_what_was_measured(ran: Path) -> None:
    plan = plan_of(ran)
    before = Progress(plan, Store(ran / "nothing"))
    after = Progress(plan, Store(ran / "dsdctl-store"))
    images = "image-folder: 24 train, 24 test images of 14 x 14"
    assert data_lines(before) == [
        f"{images}; label noise symmetric-all, rate 0.5: true flip rate about 33.33 %, "
        "measured once a level is done"
    ]
    (measured,) = {level.flip_rate for known in after.known.values() for level in known.measured}
    assert data_lines(after) == [
        f"{images}; label noise symmetric-all, rate 0.5: true flip rate {100 * measured:.2f} %"
    ]
    assert 0 < measured <= 0.5
    assert 24 * measured == pytest.approx(round(24 * measured))
    for progress, exact in ((before, False), (after, True)):
        summary = summarize(progress, paper_macs)
        assert [t.flip_rate_exact for t in summary.trajectories] == 2 * [exact]


def test_the_plan_says_why_a_teacher_is_called_directly(ran: Path) -> None:
    progress = Progress(plan_of(ran), Store(ran / "nothing"))
    assert direct_teacher_lines(progress) == [
        "kd-dense-teacher: the teacher is called for every batch "
        "(no table can hold the views of random resized crops)"
    ]


def test_the_report_states_the_true_flip_rate(ran: Path) -> None:
    progress = Progress(plan_of(ran), Store(ran / "dsdctl-store"))
    (report,) = make_report(progress, paper_macs)
    (rate,) = {row.flip_rate.mean for row in report.rows}
    assert rate is not None
    line = (
        "Label noise: symmetric-all, rate 0.5; true flip rate of the training labels: "
        f"{100 * rate:.2f} %."
    )
    assert notes(report).count(line) == 1
    assert line in " ".join(called(ran, "report", "spec.yaml", "--notes").stdout.split())
    unknown = Progress(plan_of(ran), Store(ran / "nothing"))
    (empty,) = make_report(unknown, paper_macs)
    assert [row.flip_rate.mean for row in empty.rows] == [None, None]
    assert any(line.endswith("training labels: not measured yet.") for line in notes(empty))


@pytest.mark.long
def test_data_that_cannot_be_had_stop_only_their_own_work(tmp_path: Path) -> None:
    write(tmp_path / "absent.yaml", spec_data({"dataset": {"name": "cifar10", "root": "absent"}}))
    other = {"experiment": "other", "pruning.levels": 0, "training.epochs": 1}
    write(tmp_path / "other.yaml", spec_data(other))
    line = [sys.executable, "-m", "dsdctl", "run", "absent.yaml", "other.yaml"]
    # Refuses at once, whether there is a network or not.
    offline = {**os.environ, "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        line, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False, env=offline
    )
    assert done.returncode == 3
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert errors[0].startswith(f"error: dataset cifar10: not found under {tmp_path}/absent")
    assert errors[1] == "error: the comparison of small is not complete"
    (events,) = (tmp_path / "dsdctl-store" / "logs").glob("*.jsonl")
    (failed,) = [event for event in read_events(events) if event.event == "failed"]
    assert (failed.label, failed.piece) == ("small: vanilla seed 0", None)
    assert f"error: {failed.reason}" == errors[0]
    assert str(failed.reason) in events.with_suffix(".log").read_text()
    shown = [sys.executable, "-m", "dsdctl", "report", "other.yaml", "--format", "json"]
    report = subprocess.run(shown, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(report.stdout)["complete"]
