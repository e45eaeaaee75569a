"""Archives, images and weights that claim what they do not hold are refused, and named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from faults.archives import try_archive, try_folder, try_image, try_weights
from faults.odd_images import class_is_a_link, loop_upwards, many_loops, pipe_of_an_image

pytestmark = [pytest.mark.usefixtures("one_deterministic_thread"), pytest.mark.linux]


@pytest.mark.parametrize(
    "name", ["claims more than 2^64", "a header of 2 GiB", "big-endian labels"]
)
def test_an_archive(name: str, tmp_path: Path) -> None:
    _, wrong = try_archive(tmp_path / "case", name)
    assert wrong == []


@pytest.mark.parametrize("name", ["NaN TIFF", "claims 10^9 pixels", "a line that is enlarged"])
def test_an_image(name: str, tmp_path: Path) -> None:
    _, wrong = try_image(tmp_path / "case", name)
    assert wrong == []


@pytest.mark.parametrize("change", [loop_upwards, many_loops, class_is_a_link, pipe_of_an_image])
def test_an_image_folder(change: Callable[[Path], None], tmp_path: Path) -> None:
    _, wrong = try_folder(tmp_path / "case", change)
    assert wrong == []


@pytest.mark.parametrize("name", ["a header of 2^63", "overlapping offsets of the right names"])
def test_a_teacher_s_weights(name: str, tmp_path: Path) -> None:
    _, wrong = try_weights(tmp_path / "case", name)
    assert wrong == []
