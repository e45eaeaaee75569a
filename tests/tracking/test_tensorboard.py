"""TensorBoard's files, read back by TensorBoard: every level once, whatever ended a run."""

import io
import subprocess
import sys
from pathlib import Path

import pytest
from builders import SPEC, planned, spec_data, write
from PIL import Image
from reports import double_descent
from soak import dsdctl
from stored import fill
from tiny import TINY

from dsdctl.cli.listener import ConsoleListener
from dsdctl.plan.progress import Progress
from dsdctl.results import Diverged, level_record
from dsdctl.store.store import Store
from dsdctl.tracking.tensorboard import TensorBoardFiles

ASKED = {"tracking": {"tensorboard": True}, "seeds": [0, 1]}


@pytest.fixture
def progress(tmp_path: Path) -> Progress:
    """A spec that asks for TensorBoard, all of whose levels are in a store."""
    return fill(tmp_path / "dsdctl-store", planned(tmp_path, ASKED))


def events(folder: Path) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """By run, each step in its order with its scalars."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found = {}
    for file in sorted(folder.rglob("*tfevents*")):
        steps = []
        for event in loader.EventFileLoader(str(file)).Load():
            values = {v.tag: v.tensor for v in event.summary.value}
            scalars = {n: t.float_val[0] for n, t in values.items() if t.float_val}
            if scalars:
                steps.append((event.step, scalars))
        found[file.parent.name] = steps
    return found


def mirror(progress: Progress, levels: int | None = None) -> list[str]:
    """Tell the levels as a run does, or the first of each trajectory; what is said at the end."""
    files, said = TensorBoardFiles(progress), list[str]()
    for trajectory in progress.plan.trajectories.values():
        for level in progress.known[trajectory.key].levels[:levels]:
            files.level(trajectory, level)
    files.finish([], said.append)
    return said


def expected(progress: Progress) -> dict[str, list[int]]:
    return {
        f"vanilla_seed_{t.seed}-{t.key[:8]}": [
            level.result.level for level in progress.known[t.key].levels
        ]
        for t in progress.plan.trajectories.values()
    }


def steps(progress: Progress) -> dict[str, list[int]]:
    found = events(progress.store.root / "tensorboard" / "small")
    return {run: [step for step, _ in each] for run, each in found.items()}


def test_every_level_is_a_step_with_what_it_recorded(progress: Progress) -> None:
    pytest.importorskip("tensorboard")
    (said,) = mirror(progress)
    folder = progress.store.root / "tensorboard"
    assert said == f"TensorBoard: 8 new levels; `tensorboard --logdir {folder}`"
    assert steps(progress) == expected(progress)


def test_levels_that_are_there_are_not_written_again(progress: Progress) -> None:
    pytest.importorskip("tensorboard")
    mirror(progress, levels=2)
    assert {len(found) for found in steps(progress).values()} == {2}
    mirror(progress)
    mirror(progress)
    assert steps(progress) == expected(progress)


@pytest.mark.parametrize("cut", [1, 4, 15, 30])
def test_a_file_that_was_cut_short_goes_on_from_its_last_whole_level(
    progress: Progress, cut: int
) -> None:
    pytest.importorskip("tensorboard")
    mirror(progress)
    whole = events(progress.store.root / "tensorboard")
    for file in progress.store.root.rglob("*tfevents*"):
        file.write_bytes(file.read_bytes()[:-cut])
    assert all(len(found) == 3 for found in steps(progress).values())
    mirror(progress)
    assert events(progress.store.root / "tensorboard") == whole


def test_values_are_those_of_the_store_and_a_divergence_is_a_step(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")

    def diverging(trajectory: object, level: int) -> object:
        return Diverged(level=2, epoch=7) if level == 2 else double_descent(trajectory, level)  # type: ignore[arg-type]

    progress = fill(tmp_path / "store", planned(tmp_path, ASKED), diverging)  # type: ignore[arg-type]
    mirror(progress)
    for trajectory in progress.plan.trajectories.values():
        run = f"vanilla_seed_{trajectory.seed}-{trajectory.key[:8]}"
        found = events(progress.store.root / "tensorboard")[run]
        for (step, scalars), level in zip(
            found, progress.known[trajectory.key].levels, strict=True
        ):
            record = level_record(level)
            assert step == record["level"]
            for name, value in scalars.items():
                assert value == pytest.approx(record[name], rel=1e-6)  # stored as float32
            wanted = {n for n, v in record.items() if isinstance(v, int | float)} - {"level"}
            assert scalars.keys() == wanted
        assert found[-1][1]["epoch"] == 7


def test_a_spec_that_does_not_ask_gets_no_files(tmp_path: Path) -> None:
    progress = fill(tmp_path / "store", planned(tmp_path))
    assert not TensorBoardFiles(progress).wanted
    assert mirror(progress) == []
    assert not (tmp_path / "store" / "tensorboard").exists()


def test_without_tensorboard_a_run_says_how_to_have_it_and_a_report_ends(
    progress: Progress, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    (said,) = mirror(progress)
    assert said == (
        "TensorBoard: is not installed (pip install 'dsdctl[tensorboard]'); "
        "`dsdctl report SPEC --tensorboard` writes the rest"
    )
    write(tmp_path / "small.yaml", spec_data(ASKED))
    refused = dsdctl(tmp_path, "report", "small.yaml", "--tensorboard")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("--tensorboard: TensorBoard is not installed (pip install ")


def test_a_place_that_cannot_be_written_to_is_said_once(progress: Progress) -> None:
    pytest.importorskip("tensorboard")
    (progress.store.root / "tensorboard").write_text("in the way")
    (said,) = mirror(progress)
    assert "tensorboard" in said
    assert said.endswith("`dsdctl report SPEC --tensorboard` writes the rest")


def test_a_report_writes_all_levels_and_the_comparison(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    progress = fill(tmp_path / "dsdctl-store", planned(tmp_path))  # which does not ask for it
    write(tmp_path / "small.yaml", SPEC)
    for new in (4, 0):
        done = dsdctl(tmp_path, "report", "small.yaml", "--tensorboard")
        assert done.returncode == 0, done.stderr
        assert f"TensorBoard: {new} new levels; `tensorboard --logdir dsdctl-store" in done.stderr
    folder = progress.store.root / "tensorboard" / "small"
    assert {r: s for r, s in steps(progress).items() if s} == expected(progress)
    page = accumulator.EventAccumulator(str(folder / "comparison"), size_guidance={"images": 0})
    page.Reload()
    assert "comparison" in page.Tags()["tensors"]
    (text,) = page.Tensors("comparison")
    assert text.tensor_proto.string_val[0].decode().startswith("## small")
    assert {"small-curves", "small-memorisation"} <= {*page.Tags()["images"]}
    assert Image.open(io.BytesIO(page.Images("small-curves")[0].encoded_image_string)).width > 100


def test_a_listener_hears_the_same_events_for_both_trackers(progress: Progress) -> None:
    pytest.importorskip("tensorboard")
    from rich.console import Console

    from dsdctl.cost.macs import MacCache
    from dsdctl.run.events import Event
    from dsdctl.worker.tasks import LevelTask

    listener = ConsoleListener(Console(quiet=True))
    listener.begun(progress, MacCache(progress.store))
    for trajectory in progress.plan.trajectories.values():
        for number, level in enumerate(progress.known[trajectory.key].levels):
            identity = Store(progress.store.root).levels.identity(level.key)
            task = LevelTask(identity=identity, dataset_path=".")
            for kind in ("started", "finished"):
                listener.happened(
                    Event(kind, trajectory, task, level if kind == "finished" else None)
                )
            assert steps(progress)[f"vanilla_seed_{trajectory.seed}-{trajectory.key[:8]}"] == [
                *range(number + 1)
            ]


@pytest.mark.long
def test_a_run_writes_the_files_of_its_trajectories(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "tiny.yaml").write_text(TINY + "tracking: {tensorboard: true}\n")
    line = [sys.executable, "-m", "dsdctl", "run", "tiny.yaml", "--recipe", "kd-dense-teacher"]
    done = subprocess.run(
        [*line, "--seed", "0"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "TensorBoard: 5 new levels" in done.stderr
    found = events(tmp_path / "dsdctl-store" / "tensorboard")
    assert sorted(len(steps) for steps in found.values()) == [0, 1, 4]
    assert "Traceback" not in done.stderr
