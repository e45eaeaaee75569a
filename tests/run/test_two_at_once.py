"""Two runs on one store: nothing is trained twice, nobody waits for the dead."""

import os
import signal
from pathlib import Path

import pytest
from soak import (
    Checkpoints,
    dsdctl,
    ended,
    inflight,
    levels,
    result_bytes,
    spec,
    start,
    wait_until,
    workers,
)

EPOCHS = 15
LONGER = ("epochs: 3", f"epochs: {EPOCHS}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both specs, run one after the other by one process."""
    folder = tmp_path_factory.mktemp("alone")
    _write_both(folder)
    done = dsdctl(folder, "run", "one.yaml", "two.yaml", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(dsdctl(folder, "run", f"{name}.yaml").stdout)
    return folder


def _write_both(folder: Path) -> None:
    """Two specs that share the teacher, its table, the first student and half of the second."""
    taught = ("[vanilla]", "[vanilla, kd-dense-teacher]")
    spec(folder, LONGER, taught, name="one")
    spec(folder, LONGER, taught, ("seeds: [0]", "seeds: [0, 1]"), name="two")


@pytest.mark.long
@pytest.mark.parametrize(
    "second", [pytest.param("one", id="same-spec"), pytest.param("two", id="overlap")]
)
@pytest.mark.linux
def test_two_runs_at_once_train_every_level_once_and_agree_with_one_alone(
    second: str, alone: Path, tmp_path: Path
) -> None:
    _write_both(tmp_path)
    store = tmp_path / "dsdctl-store"
    checkpoints = Checkpoints(store)
    runs = [
        start(tmp_path, "run", f"{name}.yaml", "--checkpoint-every", "0", "--jobs", jobs)
        for name, jobs in (("one", 1), (second, 2))
    ]
    done = [ended(process) for process in runs]
    assert [run.returncode for run in done] == [0, 0], [run.stderr for run in done]
    trained = {folder.name: EPOCHS for folder in levels(store)}
    assert checkpoints.taken() == trained
    expected = result_bytes(alone / "dsdctl-store")
    if second == "two":
        assert result_bytes(store) == expected
    assert result_bytes(store).items() <= expected.items()
    for name, run in zip(("one", second), done, strict=True):
        assert run.stdout == (alone / f"{name}.txt").read_text()
    assert not inflight(store)


@pytest.mark.long
@pytest.mark.linux
def test_when_the_owner_of_a_level_is_killed_another_run_takes_over(tmp_path: Path) -> None:
    epochs = 200
    spec(tmp_path, ("epochs: 3", f"epochs: {epochs}"), ("levels: 1", "levels: 0"))
    store = tmp_path / "dsdctl-store"
    line = ("run", "small.yaml", "--checkpoint-every", "0", "--jobs", "1")
    owner = start(tmp_path, *line)
    wait_until(lambda: inflight(store))
    os.kill(workers(owner.pid)[0], signal.SIGSTOP)  # holds its lock, and never gets done
    with (tmp_path / "stderr").open("w") as stderr:
        waiting = start(tmp_path, *line, "-v", stderr=stderr)
    wait_until(lambda: "another process is running it" in (tmp_path / "stderr").read_text())
    owner.kill()
    owner.communicate()
    waiting.communicate(timeout=200)
    assert waiting.returncode == 0
    said = (tmp_path / "stderr").read_text()
    assert said.count("another process is running it") == 2, said  # in the log and in the progress
    assert len(levels(store)) == 1
