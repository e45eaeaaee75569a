"""`dsdctl run --engine ray` on a real cluster of two nodes, which tests kill: equal results."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from own_code import own_spec
from ray_nodes import Nodes
from soak import (
    SPEC,
    Checkpoints,
    dsdctl,
    ended,
    inflight,
    levels,
    result_bytes,
    session_members,
    spec,
    start,
    wait_until,
)

pytestmark = pytest.mark.timeout(600)

EPOCHS = 150

CHANGES = (
    ("epochs: 3", f"epochs: {EPOCHS}"),
    ("[vanilla]", "[vanilla, kd-dense-teacher]"),
    ("levels: 1", "levels: 0"),
)
"""A teacher and, from the start beside it, a student; then a table and a second student."""


def _run(nodes: Nodes) -> tuple[str, ...]:
    """The command; every epoch is kept."""
    there = ("--engine", "ray", "--address", nodes.address)
    return ("run", "small.yaml", *there, "--checkpoint-every", "0")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the spec was run on this machine alone."""
    folder = tmp_path_factory.mktemp("local")
    spec(folder, *CHANGES)
    done = dsdctl(folder, "run", "small.yaml")
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="Ray is not installed", exc_type=ImportError)
    if sys.platform != "linux":
        pytest.skip("a node's processes are found in /proc")
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.close()


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """Both nodes, whatever the test before has done to them."""
    cluster.complete()
    return cluster


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a run of `local`'s spec in a folder of its own keeps its work."""
    spec(tmp_path, *CHANGES)
    return tmp_path / "dsdctl-store"


def _assert_as_local(store: Path, done: subprocess.CompletedProcess[str], local: Path) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout == (local / "stdout").read_text()
    assert result_bytes(store) == result_bytes(local / "dsdctl-store")
    assert not inflight(store)


@pytest.mark.long
def test_a_driver_that_is_stopped_or_killed_goes_on_by_the_same_command(
    nodes: Nodes, local: Path, store: Path
) -> None:
    checkpoints = Checkpoints(store)
    stopped = start(store.parent, *_run(nodes))
    wait_until(lambda: inflight(store))
    stopped.send_signal(signal.SIGINT)
    done = ended(stopped)
    assert done.returncode == 130
    assert "interrupted; re-run the command to resume" in done.stderr
    assert inflight(store)
    assert not levels(store)
    killed = start(store.parent, *_run(nodes))
    wait_until(lambda: levels(store))
    killed.kill()
    killed.communicate()
    _assert_as_local(store, dsdctl(store.parent, *_run(nodes)), local)
    for key, taken in checkpoints.taken().items():
        # Asked to stop, a task keeps what it has once more; and once it may have been killed
        # between an epoch and its checkpoint.
        assert EPOCHS <= taken <= EPOCHS + 2, key


@pytest.mark.long
def test_what_is_lost_with_a_node_goes_on_elsewhere_from_its_last_checkpoint(
    nodes: Nodes, local: Path, store: Path
) -> None:
    checkpoints = Checkpoints(store)
    process = start(store.parent, *_run(nodes))
    wait_until(
        lambda: set(nodes.at_work_on_second(store)) & {file.name for file in inflight(store)}
    )
    nodes.kill_second()
    done = ended(process)
    assert "level 0: lost (its node died), run again" in done.stderr
    _assert_as_local(store, done, local)
    for key, taken in checkpoints.taken().items():
        assert EPOCHS <= taken <= EPOCHS + 1, key


@pytest.mark.long
def test_a_lost_head_ends_the_run_and_a_new_one_goes_on(
    nodes: Nodes, local: Path, store: Path
) -> None:
    process = start(store.parent, *_run(nodes))
    wait_until(lambda: inflight(store))
    nodes.kill_second()
    nodes.kill_head()
    done = ended(process)
    assert done.returncode == 3
    assert (
        f"error: the head of the Ray cluster at {nodes.address} is lost; once there is "
        "one, re-run the command to resume"
    ) in done.stderr
    nodes.complete()
    _assert_as_local(store, dsdctl(store.parent, *_run(nodes)), local)


@pytest.mark.long
def test_a_node_without_the_data_says_where_it_looked(nodes: Nodes, tmp_path: Path) -> None:
    """The path names a file in the folder of whoever reads it, and the nodes run elsewhere."""
    images = np.zeros((60, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(60) % 3
    np.savez(tmp_path / "d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    here = "dataset: {name: npz, file: /proc/self/cwd/d.npz}"
    spec(tmp_path, (re.findall("dataset: .*", SPEC)[0], here), ("size: 200", "size: 20"))
    done = dsdctl(tmp_path, *_run(nodes))
    assert done.returncode == 3
    failure = f"on {socket.gethostname()}: /proc/self/cwd/d.npz: No such file or directory"
    assert f"error: {failure}\n" in done.stderr
    assert not levels(tmp_path / "dsdctl-store")


@pytest.mark.long
def test_a_level_that_no_node_has_room_for_is_said_to_wait(nodes: Nodes, store: Path) -> None:
    process = start(store.parent, *_run(nodes), "--threads", "2")
    assert process.stderr is not None
    assert process.stderr.readline() == (
        f"warning: no node of Ray at {nodes.address} has 2 CPUs, which a level takes; waiting for "
        "one\n"
    )
    process.send_signal(signal.SIGINT)
    assert ended(process).returncode == 130


ALONE = ("run", "small.yaml", "--engine", "ray", "--checkpoint-every", "0")
"""Without an address."""

STARTED = r"Ray on this machine: started with \d+ cores, ends with this run\n"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a cluster of a run's own keeps its files; there is no other, and no home folder."""
    pytest.importorskip("ray", reason="Ray is not installed", exc_type=ImportError)
    folder = Path(tempfile.mkdtemp(prefix="own-"))  # paths of sockets must be short
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield folder
    shutil.rmtree(folder)


def _assert_nothing_is_left(process: subprocess.Popen[str], own: Path) -> None:
    wait_until(lambda: not session_members(process.pid))
    assert list(own.iterdir()) == []


@pytest.mark.long
def test_without_a_cluster_one_is_started_for_the_run_alone(
    own: Path, local: Path, store: Path
) -> None:
    process = start(store.parent, *ALONE, start_new_session=True)
    done = ended(process)
    assert re.match(STARTED, done.stderr)
    assert done.stderr.count("Ray") == 1
    _assert_as_local(store, done, local)
    _assert_nothing_is_left(process, own)


@pytest.mark.long
def test_workers_of_a_cluster_load_own_code_by_its_digest(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSDCTL_CACHE", str(tmp_path / "cache"))
    own_spec(tmp_path)
    local = dsdctl(tmp_path, "run", "small.yaml", "--store", "local")
    assert local.returncode == 0, local.stderr
    done = dsdctl(tmp_path, *ALONE)
    assert done.returncode == 0, done.stderr
    assert result_bytes(tmp_path / "dsdctl-store") == result_bytes(tmp_path / "local")
    assert list(own.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=str)
def test_a_cluster_of_its_own_ends_with_an_interrupted_run(
    number: signal.Signals, own: Path, local: Path, store: Path
) -> None:
    process = start(store.parent, *ALONE, start_new_session=True)
    wait_until(lambda: inflight(store))
    process.send_signal(number)
    done = ended(process)
    assert inflight(store)
    if number == signal.SIGKILL:
        wait_until(lambda: not session_members(process.pid))  # Ray takes a minute
        shutil.rmtree(next(own.glob("dsdctl-ray-*")))  # nobody was left to remove it
    else:
        assert done.returncode == 128 + number
        assert "interrupted; re-run the command to resume" in done.stderr
        _assert_nothing_is_left(process, own)
    process = start(store.parent, *ALONE, start_new_session=True)
    _assert_as_local(store, ended(process), local)
    _assert_nothing_is_left(process, own)


@pytest.mark.long
def test_a_cluster_of_its_own_ends_when_it_is_interrupted_while_it_starts(
    own: Path, store: Path
) -> None:
    process = start(store.parent, *ALONE, start_new_session=True)
    wait_until(lambda: list(own.glob("dsdctl-ray-*")))
    process.send_signal(signal.SIGINT)
    assert ended(process).returncode == 130
    _assert_nothing_is_left(process, own)
    assert not store.exists()


@pytest.mark.long
def test_a_cluster_of_its_own_ends_with_a_run_that_fails(own: Path, store: Path) -> None:
    store.write_text("no folder")
    process = start(store.parent, *ALONE, "--threads", "3", start_new_session=True)
    done = ended(process)
    assert done.returncode == 2
    started, problem = done.stderr.splitlines()
    assert re.fullmatch(STARTED, f"{started}\n")
    assert problem == "--store: dsdctl-store: cannot be written (File exists)"
    _assert_nothing_is_left(process, own)


@pytest.mark.long
def test_the_cluster_that_was_started_on_this_machine_is_found(
    own: Path, nodes: Nodes, local: Path, store: Path
) -> None:
    record = own / "ray" / "ray_current_cluster"  # where `ray start` keeps it
    record.parent.mkdir()
    record.write_text(nodes.address)
    done = dsdctl(store.parent, *ALONE)
    assert "started with" not in done.stderr
    _assert_as_local(store, done, local)
    assert not list(own.glob("dsdctl-ray-*"))


@pytest.mark.long
def test_where_a_cluster_was_started_that_is_gone_another_is(own: Path, store: Path) -> None:
    record = own / "ray" / "ray_current_cluster"
    record.parent.mkdir()
    record.write_text("127.0.0.1:1")
    store.write_text("no folder")
    assert re.match(STARTED, dsdctl(store.parent, *ALONE).stderr)


def test_a_cluster_of_its_own_that_does_not_start_is_one_line(
    own: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(own / "absent"))
    done = dsdctl(store.parent, *ALONE)
    assert done.returncode == 3
    assert re.fullmatch(r"error: Ray does not start here \(.*No such file.*\)\n", done.stderr)
    assert not store.exists()


def test_without_ray_or_a_cluster_one_line_says_so(tmp_path: Path) -> None:
    spec(tmp_path)
    program = "import sys; sys.modules['ray'] = None; from dsdctl.cli.app import main; main()"
    line = [sys.executable, "-c", program, "run", "small.yaml", "--engine", "ray"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "--engine ray: needs Ray (pip install 'dsdctl[ray]')\n"
    assert not (tmp_path / "dsdctl-store").exists()


def test_an_address_without_a_cluster_is_bad_input(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed", exc_type=ImportError)
    spec(tmp_path)
    done = dsdctl(tmp_path, "run", "small.yaml", "--engine", "ray", "--address", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(
        r"--address: 127\.0\.0\.1:1: no Ray cluster \(no cluster answers there\)\n", done.stderr
    )
