"""Where Linux's own calls are missing: the same results, no worker left behind; not on Windows.

tests/support/without_linux takes the calls away, in the command and in all processes that it
starts.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from soak import assert_workers_end_with, called, ended, result_bytes, spec, start
from tiny import ROOT

SMOKE = ROOT / "specs" / "smoke.yaml"


STANDS_IN = str(ROOT / "tests" / "support" / "without_linux")


def there(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start the command, and so all that it starts, without what only Linux has."""
    return start(folder, *arguments, env=environment())


def environment() -> dict[str, str]:
    before = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [STANDS_IN, before]))}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store `there` of a run of the smoke spec, and what that printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = ended(there(folder, "run", SMOKE, "--jobs", "2", "--store", "there"))
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


IN_A_CHILD = """
import ctypes
import multiprocessing
import os
import signal

def lacks():
    try:
        os.listdir("/proc")
    except FileNotFoundError:
        holders = os, os, signal, ctypes.CDLL(None), ctypes.CDLL(None)
        names = "sched_getaffinity", "fdatasync", "sigtimedwait", "prctl", "mallopt"
        assert not any(map(hasattr, holders, names))
    else:
        raise AssertionError("/proc is there")

if __name__ == "__main__":
    lacks()
    child = multiprocessing.Process(target=lacks)
    child.start()
    child.join()
    print(multiprocessing.get_start_method(), child.exitcode)
"""


def test_what_is_taken_away_is_missing_in_child_processes_too(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(IN_A_CHILD)
    line = [sys.executable, program]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("spawn 0\n", "")


@pytest.mark.long
def test_the_smoke_spec_ends_in_the_same_bytes(finished: Path) -> None:
    here = ended(start(finished, "run", SMOKE, "--jobs", "2", "--store", "here"))
    assert here.returncode == 0, here.stderr
    assert (finished / "stdout").read_text() == here.stdout
    assert len(result_bytes(finished / "here")) > 0
    assert result_bytes(finished / "there") == result_bytes(finished / "here")


@pytest.mark.long
@pytest.mark.parametrize("command", ["plan", "status", "report"])
def test_a_command_prints_the_same(command: str, finished: Path) -> None:
    line = (command, SMOKE, "--store", "there")
    done = ended(there(finished, *line))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == called(finished, *line).stdout


@pytest.mark.long
def test_the_doctor_counts_all_cores(finished: Path) -> None:
    doctor = ended(there(finished, "doctor", "--store", "there"))
    assert (doctor.returncode, doctor.stderr) == (0, "")
    assert f"ok   {os.cpu_count()} processor cores" in doctor.stdout
    assert "0 problems" in doctor.stdout


@pytest.mark.long
@pytest.mark.linux
def test_a_killed_run_leaves_no_worker_in_training_behind(tmp_path: Path) -> None:
    spec(tmp_path, ("epochs: 3", "epochs: 100000"), ("seeds: [0]", "seeds: [0, 1]"))
    process = there(tmp_path, "run", "small.yaml", "--checkpoint-every", "0", "--jobs", "2")
    assert_workers_end_with(process, tmp_path / "dsdctl-store")


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_bench_measures_both_sides(tmp_path: Path) -> None:
    line = ("bench", "--device", "cpu", "--jobs", 1, "--repeats", 1, "--batches", 2)
    process = there(tmp_path, *line, "--case", "measure")
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "measure" in out
    assert "Traceback" not in err
    assert "Warning" not in err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["plan", str(SMOKE)]], ids=" ".join)
def test_on_windows_the_first_command_is_one_line(arguments: list[str]) -> None:
    """The installed command as it is there: without the modules of Unix, by its entry point."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["dsdctl"].partition(":")
    program = f"""
import sys
for name in ("fcntl", "grp", "posix", "pwd", "resource", "termios"):
    sys.modules[name] = None
sys.platform = "win32"
from {module} import {function}
{function}()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "dsdctl: does not run on Windows (allowed: Linux, macOS, or WSL on it)\n"
