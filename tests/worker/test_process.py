"""The process of a worker ends with the one that gives it work."""

import subprocess
import sys

import pytest

RESET = """
import os
from multiprocessing import Pipe
from dsdctl.worker.process import work

ours, theirs = Pipe()
theirs.send("which is never read, so that the closed pipe is reset")
ours.close()
work(theirs, os.getppid())
"""


@pytest.mark.linux
def test_a_pipe_that_is_reset_ends_the_worker_without_a_word() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RESET], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
