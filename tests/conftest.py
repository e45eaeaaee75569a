"""Fixtures that several test files use."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import TINY, Dsdctl

os.environ["WANDB_ERROR_REPORTING"] = "false"
os.environ["WANDB_MODE"] = "offline"
# A job in the background of a shell ignores Ctrl-C, and so would every command that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
    """Runs the command as a user would, in a folder of its own."""

    def command(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "dsdctl", *map(str, arguments)]
        settings = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 200}
        return subprocess.run(line, check=False, **{**settings, **options})

    return command
