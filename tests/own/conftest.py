"""What is found of networks is kept in a folder of the test's."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSDCTL_CACHE", str(tmp_path / "cache"))
