"""Which library of compiled kernels is used, and which is not."""

import shutil
from pathlib import Path

import pytest
import torch

from dsdctl.errors import InputError
from dsdctl.ml.kernels import kernels
from dsdctl.ml.kernels.choice import Processor, choose
from dsdctl.system.devices import KERNELS_VARIABLE


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


def test_without_the_library_none_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "library", lambda: None)
    kernels._choices.cache_clear()
    try:
        assert kernels.processor() is None
        assert kernels.in_use() == ()
        assert {choice.reason for choice in kernels.choices().values()} == {"not compiled"}
    finally:
        kernels._choices.cache_clear()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("threads", "used"), [(1, True), (2, False)])
def test_they_are_for_one_thread(threads: int, used: bool) -> None:
    torch.set_num_threads(threads)
    try:
        assert kernels.used("batch-norm") == used
        assert bool(kernels.in_use()) == used
    finally:
        torch.set_num_threads(1)


@pytest.mark.usefixtures("compiled")
def test_the_environment_decides_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.used("batch-norm")
    monkeypatch.setenv(KERNELS_VARIABLE, "off")
    assert not kernels.used("batch-norm")
    monkeypatch.setenv(KERNELS_VARIABLE, "none")
    with pytest.raises(InputError, match="allowed: auto, all, avx2, off"):
        kernels.used("batch-norm")


def test_kernels_in_use_are_named_with_their_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    amd = Processor("AuthenticAMD", frozenset({"avx2", "avx512"}))
    monkeypatch.setattr(kernels, "choices", lambda: choose(amd, "auto"))
    assert kernels.in_use() == ("batch-norm avx512", "weight-gradient-fp32 avx512")
