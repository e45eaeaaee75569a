"""`dsdctl doctor`: which kernels are used and why, and what it says of a store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from soak import dsdctl

from dsdctl.cli.examine import examine
from dsdctl.ml.kernels.choice import Processor, choose


def test_doctor_is_content_where_nothing_was_run_yet(tmp_path: Path) -> None:
    done = dsdctl(tmp_path, "doctor")
    assert done.returncode == 0, done.stdout
    assert "ok   store dsdctl-store: not there yet" in done.stdout
    assert not list(tmp_path.iterdir())


INTEL = Processor("GenuineIntel", frozenset({"avx2", "avx512", "avx512-bf16", "amx-bf16"}))


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (
            INTEL,
            [
                "kernels: compiled, for training on one thread of a CPU; the processor is "
                "GenuineIntel with amx-bf16, avx2, avx512, avx512-bf16",
                "kernel batch-norm: used (avx512), fewer passes over memory",
                "kernel weight-gradient-fp32: not used, oneDNN's is no slower on processors of "
                "GenuineIntel",
                "kernel weight-gradient-bf16: not used, oneDNN's is no slower on processors of "
                "GenuineIntel",
            ],
        ),
        (
            None,
            [
                "kernels: not compiled (no C++ compiler when dsdctl was installed?); training on "
                "CPUs is slower"
            ],
        ),
    ],
)
def test_doctor_says_which_kernels_are_used_and_why_and_is_content(
    processor: Processor | None,
    expected: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dsdctl.ml.kernels.kernels.processor", lambda: processor)
    monkeypatch.setattr("dsdctl.ml.kernels.kernels.choices", lambda: choose(processor, "auto"))
    said = [(line, good) for line, good in examine(tmp_path) if line.startswith("kernel")]
    assert said == [(line, True) for line in expected]


def test_kernels_that_are_off_are_so_for_the_doctor_and_a_wrong_wish_is_bad_input(
    tmp_path: Path,
) -> None:
    def doctor(wish: str, *line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dsdctl", *line], capture_output=True, text=True, check=False,
            cwd=tmp_path, env={**os.environ, "DSDCTL_KERNELS": wish},
        )  # fmt: skip

    done = doctor("off", "doctor")
    assert done.returncode == 0
    if "kernels: compiled" in done.stdout:
        for name in ("batch-norm", "weight-gradient-fp32", "weight-gradient-bf16"):
            assert f"ok   kernel {name}: not used, $DSDCTL_KERNELS is off\n" in done.stdout
    for line in (["doctor"], ["run", "none.yaml"], ["validate", "none.yaml"]):
        done = doctor("none", *line)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "$DSDCTL_KERNELS: 'none' (allowed: auto, all, avx2, off)\n"
    assert not list(tmp_path.iterdir())


def test_doctor_does_not_take_a_store_without_its_marker_for_none(tmp_path: Path) -> None:
    (tmp_path / "dsdctl-store" / "levels").mkdir(parents=True)
    done = dsdctl(tmp_path, "doctor")
    assert done.returncode == 3
    assert "BAD  store dsdctl-store: not a store, there is no store.json in it" in done.stdout
