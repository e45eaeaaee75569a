"""A run to export."""

from pathlib import Path

import pytest
from builders import write
from exporting import SPEC, run_all


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, one_deterministic_thread: None) -> Path:
    """A spec of two variants that was run, its store beside it."""
    file = write(tmp_path_factory.mktemp("run") / "spec.yaml", SPEC)
    run_all(file)
    return file
