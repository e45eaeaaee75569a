"""Which library of compiled kernels is used, and which is not."""

import shutil
from pathlib import Path

import pytest
import torch

from dsdctl.ml import kernels


def found() -> object:
    """The library as a process that begins would find it."""
    return kernels.library.__wrapped__()


@pytest.mark.parametrize("file", ["kernels.cpp", "kernels_lanes.h"])
def test_a_library_of_another_source_is_refused_with_a_warning(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if kernels.library() is None:
        pytest.skip("the kernels are not compiled")
    assert found() is not None
    for source in kernels.SOURCE.parent.glob("kernels*.[ch]*"):
        shutil.copy(source, tmp_path)
    monkeypatch.setattr(kernels, "SOURCE", tmp_path / "kernels.cpp")
    assert found() is not None
    with (tmp_path / file).open("a") as changed:
        changed.write("\n")
    assert found() is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "another version of kernels.cpp" in record.getMessage()
    assert "install dsdctl again" in record.getMessage()


@pytest.mark.parametrize("content", [None, b"", b"no library at all"])
def test_what_is_no_library_is_not_used(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "LIBRARY", tmp_path / "libkernels.so")
    if content is not None:
        kernels.LIBRARY.write_bytes(content)
    assert found() is None


@pytest.mark.parametrize(
    ("threads", "library", "at_hand"), [(1, object(), True), (1, None, False), (2, object(), False)]
)
def test_they_are_for_one_thread(
    threads: int, library: object, at_hand: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "library", lambda: library)
    torch.set_num_threads(threads)
    try:
        assert kernels.at_hand() == at_hand
    finally:
        torch.set_num_threads(1)
