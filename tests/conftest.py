"""Fixtures that several test files use."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from soak import called
from tiny import TINY, Dsdctl

os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["WANDB_MODE"] = "offline"
if not Path("/proc/driver/nvidia").exists():
    # Before anything imports Triton, whose kernels its interpreter runs where there is no GPU.
    os.environ["TRITON_INTERPRET"] = "1"
LONGEST_FIRST = [
    # A file that is not there any more ends the tests before they begin.
    Path(__file__).parent.joinpath(name).resolve(strict=True)
    for name in (
        "digits/test_digits.py", "run/test_finished.py", "run/test_trouble.py",
        "run/test_resume.py", "tracking/test_tracking.py", "run/test_restore.py",
        "run/test_gpu_engine.py", "run/test_two_at_once.py", "test_portable.py", "run/test_ray.py",
        "slurm/test_slurm.py", "spec/test_specs.py", "report/test_formats.py",
        "run/test_unfinished.py", "bench/test_bench.py", "store/test_maintenance.py",
        "worker/test_teacher_file.py", "run/test_preparing.py", "test_readme.py",
        "worker/test_rewinding.py", "report/test_figures.py", "run/test_rehearsal.py",
    )
]  # fmt: skip
"""The files that take longest: what one process is left with at the end should be short."""

# A job in the background of a shell ignores Ctrl-C, and so would every command that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {file: place for place, file in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
    if sys.platform != "linux":
        for item in items:
            if item.get_closest_marker("linux"):
                item.add_marker(pytest.mark.skip(reason="for Linux only"))


@pytest.fixture(scope="module")
def one_deterministic_thread() -> Iterator[None]:
    """Configures this process as a worker's, and afterwards as it was."""
    import torch

    from dsdctl.ml.device import configure

    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    configure(torch.device("cpu"), 1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.set_flush_denormal(False)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A spec that runs in seconds."""
    spec = tmp_path / "tiny.yaml"
    spec.write_text(TINY)
    return spec


@pytest.fixture
def dsdctl(tmp_path: Path) -> Dsdctl:
    """Runs the command as a user would, in a folder of its own.

    What is not `run` is called in this process, which has imported torch already; with other
    options than `cwd` it has a process of its own too.
    """

    def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        if arguments[0] != "run" and options.keys() <= {"cwd"}:
            return called(options.get("cwd", tmp_path), *arguments)
        line = [sys.executable, "-m", "dsdctl", *map(str, arguments)]
        settings = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 200}
        # Else it would get the COLUMNS that readline sets behind Python's back.
        settings["env"] = dict(os.environ)
        return subprocess.run(line, check=False, **{**settings, **options})

    return command
