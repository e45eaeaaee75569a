"""What the tests of dsdctl.ml share: one thread, the kernels, and a few random pictures."""

import os
import shlex
import shutil

import pytest
import torch

from dsdctl.ml import kernels
from dsdctl.ml.data import Normalisation, Split, ViewReader, Views


@pytest.fixture(autouse=True, scope="module")
def _configured(one_deterministic_thread: None) -> None:
    """All of dsdctl.ml is tested as a worker runs it."""


@pytest.fixture(scope="session")
def compiled() -> None:
    """Skips where the kernels cannot be, and fails where they should be and are not."""
    (compiler, *_) = shlex.split(os.environ.get("CXX") or "c++")
    if kernels.library() is None and shutil.which(compiler) is None:
        pytest.skip(f"there is no C++ compiler ({compiler})")
    assert kernels.library() is not None, (
        "there is a C++ compiler, but the kernels are not compiled, or from another source: "
        "install dsdctl again"
    )


@pytest.fixture(scope="session")
def pictures() -> Split:
    """44 grey pictures of 8x8 random pixels in 4 classes; 44 leaves batches of 8 a rest of 4."""
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (44, 8, 8, 1), generator=stream, dtype=torch.uint8)
    return Split(images, torch.randint(0, 4, (44,), generator=stream))


@pytest.fixture(scope="session")
def reader(pictures: Split) -> ViewReader:
    """Reader of `pictures` in 18 views."""
    return ViewReader(pictures.images, Normalisation((0.4,), (0.3,)), Views(flip=True, crop=1))
