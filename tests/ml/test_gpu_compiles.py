"""The kernels for GPUs compile for one, which need not be there."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")


@pytest.mark.long
def test_all_that_a_step_calls_compiles_for_an_h100() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.gpu.compile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "_sgd(" in done.stdout
    assert "normalize_maps(" in done.stdout
