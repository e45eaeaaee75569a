"""By which names a variant is known."""

import pytest

from dsdctl.report.axes import is_named

AXES = {"label_noise.rate": "0.2", "student.width": "8"}


@pytest.mark.parametrize(
    "name",
    [
        "label_noise.rate=0.2, student.width=8",
        "label_noise.rate=0.2,student.width=8",
        "rate=0.2, width=8",
        "noise 20 %, width 8",
        " noise 20%, width 8 ",
    ],
)
def test_a_variant_is_known_by_all_names_that_are_shown(name: str) -> None:
    assert is_named(AXES, name)


@pytest.mark.parametrize("name", ["", "rate=0.2", "width 8, noise 20 %", "noise 40 %, width 8"])
def test_and_by_no_other(name: str) -> None:
    assert not is_named(AXES, name)
    assert is_named({}, "")
