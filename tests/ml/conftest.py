"""What the tests of dsdctl.ml share: one thread, and a few random pictures to train on."""

import pytest
import torch

from dsdctl.ml.data import Normalisation, Split, ViewReader, Views


@pytest.fixture(autouse=True, scope="module")
def _configured(one_deterministic_thread: None) -> None:
    """All of dsdctl.ml is tested as a worker runs it."""


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
