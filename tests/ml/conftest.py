"""What the tests of dsdctl.ml share: one thread, and a few random pictures to train on."""

from collections.abc import Iterator

import pytest
import torch

from dsdctl.ml.data import Normalisation, Split, ViewReader, Views
from dsdctl.ml.device import configure


@pytest.fixture(autouse=True, scope="module")
def _one_deterministic_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    configure(torch.device("cpu"), 1)
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.set_flush_denormal(False)


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
