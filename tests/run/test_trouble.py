"""What a machine can do to a run: one clear message, no half result, no hang, other work done."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from soak import (
    dsdctl,
    ended,
    inflight,
    levels,
    result_bytes,
    spec,
    start,
    wait_until,
)
from tiny import FULL_FOR_SEED_0, ROOT

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small file system in memory with the given options, where that is permitted."""
    mounted: list[Path] = []

    def new(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        line = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(line, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode != 0:
            pytest.skip(f"mounting is not permitted: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield new
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _errors(stderr: str) -> list[str]:
    """The messages that a run ends with, but for the last, that the comparison is not complete."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert errors[-1].endswith("is not complete")
    return errors[:-1]


# Disks


@pytest.mark.long
def test_a_disk_that_fills_up_in_mid_run_fails_in_one_message_and_room_lets_it_go_on(
    mount: Mount, tmp_path: Path
) -> None:
    disk = mount("size=2m")
    spec(tmp_path, ("epochs: 3", "epochs: 150"), ("seeds: [0]", "seeds: [0, 1]"))
    line = ("run", "small.yaml", "--store", "disk/store", "--checkpoint-every", "0")
    process = start(tmp_path, *line, "--jobs", "2")
    wait_until(lambda: inflight(disk / "store"))
    filler = disk / "filler"
    _fill(filler)
    done = ended(process)
    assert done.returncode == 3
    (error,) = _errors(done.stderr)
    assert "No space left on device" in error
    assert not levels(disk / "store")
    filler.unlink()
    again = dsdctl(tmp_path, *line, "--jobs", "2")
    assert again.returncode == 0, again.stderr
    assert len(levels(disk / "store")) == 4
    assert dsdctl(tmp_path, "store", "check", "--store", "disk/store").returncode == 0


def _fill(file: Path) -> None:
    with file.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return


def test_a_disk_too_small_for_the_plan_is_refused_and_the_need_named(
    mount: Mount, tmp_path: Path
) -> None:
    mount("size=2m")
    spec(tmp_path, ("width: 4", "width: 256"))
    refused = dsdctl(tmp_path, "run", "small.yaml", "--store", "disk/store")
    assert refused.returncode == 2
    assert "disk/store: the run may write 5.8 MiB" in refused.stderr
    assert "MiB are free" in refused.stderr
    assert not levels(tmp_path / "disk" / "store")


@pytest.mark.long
def test_a_read_only_store_is_refused_by_run_and_read_by_the_rest(
    mount: Mount, tmp_path: Path
) -> None:
    disk = mount("size=2m")
    spec(tmp_path)
    done = dsdctl(tmp_path, "run", "small.yaml", "--store", "disk/store")
    assert done.returncode == 0
    before = dsdctl(tmp_path, "report", "small.yaml", "--store", "disk/store")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    refused = dsdctl(tmp_path, "run", "small.yaml", "--store", "disk/store")
    assert refused.returncode == 2
    assert "disk/store: cannot be written (Read-only file system)" in refused.stderr
    assert refused.stdout == ""
    report = dsdctl(tmp_path, "report", "small.yaml", "--store", "disk/store")
    assert (report.returncode, report.stdout) == (0, before.stdout)
    assert dsdctl(tmp_path, "store", "check", "--store", "disk/store").returncode == 0


@pytest.mark.parametrize("place", ["small.yaml/store", "/proc/store", "small.yaml"])
def test_a_store_that_cannot_be_made_is_bad_input(place: str, tmp_path: Path) -> None:
    spec(tmp_path)
    refused = dsdctl(tmp_path, "run", "small.yaml", "--store", place)
    assert refused.returncode == 2
    assert f"--store: {place}: cannot be written" in refused.stderr


@pytest.mark.long
def test_a_store_that_vanishes_is_said_once_and_not_made_anew(tmp_path: Path) -> None:
    spec(tmp_path, ("epochs: 3", "epochs: 1000"), ("seeds: [0]", "seeds: [0, 1]"))
    store = tmp_path / "dsdctl-store"
    process = start(tmp_path, "run", "small.yaml", "--checkpoint-every", "0", "--jobs", "2")
    wait_until(lambda: len(inflight(store)) == 2)
    store.rename(tmp_path / "gone")
    done = ended(process)
    assert done.returncode == 3
    assert _errors(done.stderr) == ["error: dsdctl-store: the store has vanished"]
    assert not store.exists()


# Training


DIVERGING = "{batch_size: 50, optimizer: {lr: 1000, weight_decay: 1}}"


@pytest.mark.long
def test_a_diverging_level_is_recorded_ends_its_trajectory_and_marks_its_rows(
    tmp_path: Path,
) -> None:
    """One recipe's students diverge, and so does the teacher of the distilled ones."""
    spec(
        tmp_path,
        ("pool: 2, table: always}", f"pool: 2, table: always, training: {DIVERGING}}}"),
        ("[vanilla]", "[vanilla, hot, kd-dense-teacher, kd-pruned-teacher]"),
    )
    hot = f"recipe: hot\ntitle: Diverges\ntraining: {DIVERGING}\n"
    (tmp_path / "hot.yaml").write_text(hot)
    done = dsdctl(tmp_path, "run", "small.yaml", "--jobs", "1")
    assert done.returncode == 3
    assert _errors(done.stderr) == []
    store = tmp_path / "dsdctl-store"
    assert done.stderr.count("level 0 diverged in epoch") == 2
    results = [json.loads((level / "result.json").read_text()) for level in levels(store)]
    assert sorted(result["kind"] for result in results) == [
        "diverged",
        "diverged",
        "measured",
        "measured",
    ]
    assert "hot 0/1 seeds (diverged)" in done.stdout
    assert "kd-dense-teacher 0/1 seeds" in done.stdout
    assert "kd-pruned-teacher 0/1 seeds" in done.stdout
    assert "vanilla 0/1" not in done.stdout

    before = {file: file.stat().st_mtime_ns for file in store.glob("levels/*/*/*")}
    again = dsdctl(tmp_path, "run", "small.yaml", "--jobs", "1")
    assert again.returncode == 3
    assert again.stdout == done.stdout
    assert "level" not in again.stderr
    assert {file: file.stat().st_mtime_ns for file in store.glob("levels/*/*/*")} == before


# Processes and memory


@pytest.mark.long
@pytest.mark.linux
def test_memory_exhausted_is_one_message_and_the_rest_is_done(tmp_path: Path) -> None:
    """Of two variants, one needs more memory for a batch than there is."""
    spec(
        tmp_path,
        ("width: 4, pool: 2", "width: 4, pool: 8"),
        ("batch_size: 200", "batch_size: 862"),
        ("levels: 1", "levels: 0"),
        ("seeds: [0]", "seeds: [0]\nmatrix: {student.width: [4, 1024]}"),
    )
    limit = _address_space_of_torch() + 700_000_000
    process = start(
        tmp_path,
        *("run", "small.yaml", "--jobs", "1"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    done = ended(process)
    assert done.returncode == 3
    assert _errors(done.stderr) == ["error: the memory is full, try fewer --jobs"]
    assert len(levels(tmp_path / "dsdctl-store")) == 1


@pytest.mark.linux
@pytest.mark.long
def test_memory_exhausted_in_the_command_itself_is_one_message(tmp_path: Path) -> None:
    """Once torch itself does not fit, and once a network of which the operations are counted."""
    spec(tmp_path, ("width: 4, pool: 2", "width: 2048, pool: 2"))
    for limit in (300_000_000, _address_space_of_torch() + 200_000_000):
        process = start(
            tmp_path,
            *("run", "small.yaml", "--jobs", "1"),
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )
        done = ended(process)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == "error: the memory is full, try fewer --jobs\n"
    assert not levels(tmp_path / "dsdctl-store")


FULL_GPU = f"""\
import torch

from dsdctl.cli.app import main
from dsdctl.ml.train import Trainer

{FULL_FOR_SEED_0}
if __name__ == "__main__":
    main()
"""


@pytest.mark.long
def test_a_full_gpu_is_one_message_and_the_rest_is_done(tmp_path: Path) -> None:
    spec(tmp_path, ("seeds: [0]", "seeds: [0, 1]"))
    (tmp_path / "full_gpu.py").write_text(FULL_GPU)
    line = [sys.executable, "full_gpu.py", "run", "small.yaml", "--jobs", "1"]
    done = subprocess.run(
        [*line, "--checkpoint-every", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert _errors(done.stderr) == [
        "error: the GPU's memory is full, try fewer --jobs (CUDA out of memory)"
    ]
    store = tmp_path / "dsdctl-store"
    assert len(levels(store)) == 2
    assert "vanilla 1/2 seeds" in done.stdout
    assert len(inflight(store)) == 1
    again = dsdctl(tmp_path, "run", "small.yaml", "--jobs", "1")
    assert again.returncode == 0, again.stderr
    assert len(levels(store)) == 4


def _address_space_of_torch() -> int:
    """Bytes that a process takes that has imported torch and done nothing."""
    code = "import dsdctl.worker.level; print(open('/proc/self/status').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("VmPeak:")]
    return 1024 * int(line.split()[1])


@pytest.mark.long
def test_fail_fast_starts_nothing_more_after_a_failure(tmp_path: Path) -> None:
    spec(tmp_path, ("seeds: [0]", "seeds: [0, 1, 2]"))
    line = ("run", "small.yaml", "--jobs", "1")
    done = dsdctl(tmp_path, *line, "--fail-fast", kill_at="training:5")
    assert done.returncode == 3
    assert done.stderr.count("FAILED") == 1
    assert len(levels(tmp_path / "dsdctl-store")) == 1


# Damage


@pytest.mark.long
def test_a_truncated_parent_is_named_quarantined_and_recomputed(tmp_path: Path) -> None:
    spec(tmp_path)
    spec(tmp_path, ("levels: 1", "levels: 2"), name="longer")
    assert dsdctl(tmp_path, "run", "small.yaml").returncode == 0
    store = tmp_path / "dsdctl-store"
    before = result_bytes(store)
    parent = next(
        level for level in levels(store) if b'"level":1' in (level / "identity.json").read_bytes()
    )
    weights = parent / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = dsdctl(tmp_path, "run", "longer.yaml")
    assert done.returncode == 0
    warning = f"warning: {weights.relative_to(tmp_path)}: "
    assert done.stderr.count(warning) == 1
    assert "(quarantined as dsdctl-store/setaside/" in done.stderr
    assert len(list(store.glob("setaside/*"))) == 1
    assert len(levels(store)) == 3
    assert before.items() <= result_bytes(store).items()


@pytest.mark.long
@pytest.mark.parametrize("name", ["weights", "masks"])
def test_altered_tensors_are_named_quarantined_and_computed_again_before_they_are_read(
    name: str, tmp_path: Path
) -> None:
    """Their size is right, so that they are only found when the next level starts from them."""
    spec(tmp_path)
    spec(tmp_path, ("levels: 1", "levels: 2"), name="longer")
    assert dsdctl(tmp_path, "run", "small.yaml").returncode == 0
    store = tmp_path / "dsdctl-store"
    before = result_bytes(store)
    parent = next(
        level for level in levels(store) if b'"level":1' in (level / "identity.json").read_bytes()
    )
    file = parent / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    done = dsdctl(tmp_path, "run", "longer.yaml")
    assert done.returncode == 0, done.stderr
    assert (
        f"{file.relative_to(tmp_path)}: checksum mismatch; quarantined, to be recomputed"
        in done.stderr
    )
    (aside,) = store.glob("setaside/*")
    assert (aside / file.name).read_bytes() == content
    assert len(levels(store)) == 3
    assert before.items() <= result_bytes(store).items()
