"""`dsdctl bench` on as little as it takes: its JSON contract, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import Dsdctl


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_json_is_as_documented(dsdctl: Dsdctl) -> None:
    done = dsdctl("bench", "--device", "cpu", "--repeats", 1, "--batches", 2, "--json", timeout=500)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result) == {"device", "versions", "ceilings", "cases", "table_seconds"}
    assert set(result["ceilings"]) == {"matmul_flops_per_second", "copy_bytes_per_second"}
    names = ["student", "student-distilled", "teacher", "measure", "digits-level"]
    assert list(dict.fromkeys(case["name"] for case in result["cases"])) == names
    for case in result["cases"]:
        assert set(case) == {
            "name", "precision", "images_per_second", "plain_images_per_second", "ratio",
            "share_of_ceiling",
        }  # fmt: skip
        ours, plain = (case[k]["median"] for k in ("images_per_second", "plain_images_per_second"))
        assert case["ratio"]["median"] == pytest.approx(ours / plain)
        assert 0 < case["share_of_ceiling"] < 1


def test_images_of_another_shape_are_bad_input(dsdctl: Dsdctl, tmp_path: Path) -> None:
    file = tmp_path / "grey.npz"
    np.savez(file, x_train=np.zeros((4, 8, 8), dtype=np.uint8), y_train=np.zeros(4, dtype=int))
    done = dsdctl("bench", "--images", file)
    assert done.returncode == 2
    assert f"--images: {file}: x_train is uint8 (1, 8, 8)" in done.stderr
