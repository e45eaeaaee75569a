"""What the tests of dsdctl.ml share: one thread, the kernels, and a few random pictures."""

import ctypes
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dsdctl.ml.data import Split
from dsdctl.ml.kernels import kernels
from dsdctl.ml.views import Normalization, ViewReader, Views
from dsdctl.system.devices import KERNELS_VARIABLE
from hatch_build import compile_kernels


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of dsdctl.ml computes; what Triton's interpreter does is the same on all processors."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.path.name != "test_gpu.py":
            item.add_marker("numerics")


@pytest.fixture(autouse=True, scope="module")
def _configured(one_deterministic_thread: None) -> None:
    """All of dsdctl.ml is tested as a worker runs it."""


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """All kernels that the processor can run; skips where they cannot be compiled, and fails where
    they should be and are not."""
    (compiler, *_) = shlex.split(os.environ.get("CXX") or "c++")
    if kernels.library() is None and shutil.which(compiler) is None:
        pytest.skip(f"there is no C++ compiler ({compiler})")
    assert kernels.library() is not None, (
        "there is a C++ compiler, but the kernels are not compiled, or from another source: "
        "install dsdctl again"
    )
    monkeypatch.setenv(KERNELS_VARIABLE, "all")


@pytest.fixture(scope="session")
def generic_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels as they are compiled for processors other than x86-64."""
    file = tmp_path_factory.mktemp("generic") / "libkernels.so"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXX", f"{os.environ.get('CXX') or 'c++'} -DGENERIC")
        assert not compile_kernels(kernels.SOURCE, file)
        patch.setattr(kernels, "LIBRARY", file)
        library = kernels.library.__wrapped__()
    assert library is not None
    return library


@pytest.fixture(params=["avx512", "avx2", "generic"])
def instructions(
    compiled: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The kernels as they are compiled for each kind of processor that this one can be."""
    if request.param == "avx2":
        monkeypatch.setenv(KERNELS_VARIABLE, "avx2")
    elif request.param == "generic":
        library = request.getfixturevalue("generic_library")
        monkeypatch.setattr(kernels, "library", lambda: library)
    kernels._choices.cache_clear()
    if kernels.choices()["batch-norm"].instructions != request.param:
        pytest.skip(f"the processor has no {request.param}")
    yield
    monkeypatch.undo()
    kernels._choices.cache_clear()


@pytest.fixture(scope="session")
def pictures() -> Split:
    """44 grey pictures of 8x8 random pixels in 4 classes; 44 leaves batches of 8 a rest of 4."""
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (44, 8, 8, 1), generator=stream, dtype=torch.uint8)
    return Split(images, torch.randint(0, 4, (44,), generator=stream))


@pytest.fixture(scope="session")
def reader(pictures: Split) -> ViewReader:
    """Reader of `pictures` in 18 views."""
    return ViewReader(pictures.images, Normalization((0.4,), (0.3,)), Views(flip=True, crop=1))
