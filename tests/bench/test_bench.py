"""`dsdctl bench`: its JSON contract on as little as it takes, both sides, and what it refuses."""

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from builders import only_problem
from rich.console import Console
from tiny import Dsdctl
from torch import nn

from dsdctl.bench import ours, plain, side
from dsdctl.bench.cases import Job, Work, case_network, load_images
from dsdctl.bench.results import BenchResult, CaseName, CaseResult, Ceilings, Spread
from dsdctl.bench.run import _Bench
from dsdctl.bench.view import print_bench
from dsdctl.ml import gpu
from dsdctl.ml.kernels import kernels
from dsdctl.ml.kernels.choice import Kernel, Processor, choose, kernel_mode
from dsdctl.ml.kernels.convolution import Conv3x3
from dsdctl.ml.networks.vgg import AdaptivePool
from dsdctl.system.devices import KERNELS_VARIABLE


def a_job(side: str, case: str, batches: int = 2) -> Job:
    return Job.model_validate(
        {"side": side, "case": case, "precision": "fp32", "device": "cpu", "threads": 1,
         "batches": batches, "images": None},
        strict=False,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_json_is_as_documented(dsdctl: Dsdctl) -> None:
    line = ("bench", "--device", "cpu", "--repeats", 1, "--batches", 2, "--json")
    done = dsdctl(*line, "--case", "student-distilled", timeout=800)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {"device", "versions", "ceilings", "cases", "table"} <= set(result)
    assert result["table"]["forwards_per_second"]["min"] > 0
    assert list(result["kernels"]) == list(get_args(Kernel))
    used = any(use.startswith("used (") for use in result["kernels"].values())
    assert set(result["ceilings"]) == {"matmul_flops_per_second", "copy_bytes_per_second"}
    cases = [(case["name"], case["precision"]) for case in result["cases"]]
    assert cases == [("student-distilled", "fp32"), ("student-distilled", "bf16")]
    for case in result["cases"]:
        for field in ("images_per_second", "plain_images_per_second", "ratio"):
            assert 0 < case[field]["min"] <= case[field]["median"] <= case[field]["max"]
        ours, plain = case["images_per_second"], case["plain_images_per_second"]
        assert ours["min"] / plain["max"] <= case["ratio"]["min"]
        assert case["ratio"]["max"] <= ours["max"] / plain["min"]
        assert case["share_of_ceiling"] > 0
        without, worth = case["images_per_second_without_kernels"], case["kernels_ratio"]
        assert (without is None) == (worth is None) == (not used)
        if used:
            assert 0 < without["min"] <= without["median"] <= without["max"]
            assert ours["min"] / without["max"] <= worth["min"] <= worth["median"] <= worth["max"]
            assert worth["max"] <= ours["max"] / without["min"]


@pytest.mark.usefixtures("one_deterministic_thread")
@pytest.mark.parametrize(
    "case",
    [
        "student",
        "measure",
        pytest.param("student-adamw", marks=pytest.mark.long),
        pytest.param("student-distilled", marks=pytest.mark.long),
    ],
)
def test_each_side_goes_through_the_images_that_it_says(case: str) -> None:
    assert ours.prepare(a_job("ours", case)).run() == 256
    assert plain.prepare(a_job("plain", case)).run() == 256


@pytest.mark.numerics
@pytest.mark.parametrize("case", ["student", "teacher"])
def test_the_plain_loop_has_none_of_our_modules_and_computes_the_same(case: CaseName) -> None:
    network = case_network(case).double().eval()
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 32, generator=stream, dtype=torch.float64)
    expected = network(images)
    plainly = plain._plain(network)
    assert not [m for m in plainly.modules() if isinstance(m, Conv3x3 | AdaptivePool)]
    assert sum(type(m) is nn.Conv2d for m in plainly.modules()) >= 10
    torch.testing.assert_close(plainly(images), expected)


CEILINGS = Ceilings(matmul_flops_per_second={"fp32": 1e12}, copy_bytes_per_second=1e10)


def test_of_two_measurements_of_the_ceilings_the_higher_counts_each() -> None:
    first = Ceilings(matmul_flops_per_second={"fp32": 2, "bf16": 5}, copy_bytes_per_second=1)
    second = Ceilings(matmul_flops_per_second={"fp32": 3, "bf16": 4}, copy_bytes_per_second=2)
    higher = Ceilings(matmul_flops_per_second={"fp32": 3, "bf16": 5}, copy_bytes_per_second=2)
    assert first.or_higher(second) == second.or_higher(first) == higher


def test_kernels_are_compared_where_they_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Processor("AuthenticAMD", frozenset({"avx2"}))
    monkeypatch.setattr(kernels, "choices", lambda: choose(processor, kernel_mode()))

    def modes(case: CaseName, device: str = "cpu") -> tuple[str, ...]:
        job = a_job("ours", case).model_copy(update={"device": device})
        return _Bench(job, 1, 1, 1, lambda _line: None)._modes(case)

    for wish in ("auto", "avx2"):
        monkeypatch.setenv(KERNELS_VARIABLE, wish)
        assert modes("teacher") == modes("digits-level") == (wish, "off")
        assert modes("measure") == modes("measure", "cuda") == (wish,)
    monkeypatch.setattr(gpu, "installed", lambda: True)
    monkeypatch.setenv(KERNELS_VARIABLE, "all")
    assert modes("teacher", "cuda") == ("all", "off")
    monkeypatch.setenv(KERNELS_VARIABLE, "off")
    assert modes("teacher") == modes("teacher", "cuda") == ("off",)


def test_a_table_shows_what_the_kernels_are_worth() -> None:
    with_kernels = CaseResult(
        name="teacher",
        precision="fp32",
        images_per_second=Spread.of([4000.0, 5000.0]),
        plain_images_per_second=Spread.of([1000.0]),
        plain_workers=0,
        ratio=Spread.of([4.5]),
        share_of_ceiling=0.5,
        images_per_second_without_kernels=Spread.of([3000.0, 3200.0]),
        kernels_ratio=Spread.of_ratios([4000.0, 5000.0], [3200.0, 2500.0]),
    )
    measured = with_kernels.model_copy(
        update={
            "name": "measure",
            "images_per_second_without_kernels": None,
            "kernels_ratio": None,
        }
    )
    result = BenchResult(
        device="a CPU",
        versions={},
        processes=1,
        plain_threads=1,
        ceilings=CEILINGS,
        kernels={"batch-norm": "used (avx2), for a reason"},
        cases=(with_kernels, measured),
        table=None,
        seconds=1,
    )
    console = Console(width=160, file=io.StringIO())
    print_bench(result, console)
    printed = console.file.getvalue()
    assert "3100 (3000 to 3200)   1.62 (1.25 to 2.00)" in printed
    (line,) = (line for line in printed.splitlines() if line.split()[:1] == ["measure"])
    assert line.split()[-2:] == ["-", "-"]
    assert "Kernel batch-norm: used (avx2), for a reason.\n" in printed
    assert "Ours: 1 processes of one thread, rates summed; the plain loop" in printed
    console = Console(width=160, file=io.StringIO())
    print_bench(result.model_copy(update={"streams": 3}), console)
    assert "Ours: 3 streams of one process at once, images of all" in console.file.getvalue()


def test_streams_of_one_process_are_timed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert side._rate([(100, 0.0, 1.0), (100, 0.5, 2.0)]) == 100
    monkeypatch.setenv(KERNELS_VARIABLE, "auto")  # is set to the job's, and so set back
    ran: list[int] = []
    together = threading.Barrier(2)

    def prepare(_job: Job) -> Work:
        def run() -> int:
            ran.append(threading.get_ident())
            if len(ran) > 2:  # after both warm-ups
                together.wait(timeout=20)
            return 128

        return Work(run)

    monkeypatch.setattr(ours, "prepare", prepare)
    assert side.ready(a_job("ours", "student").model_copy(update={"streams": 2}))() > 0
    assert len(ran) == 4
    assert sorted(ran[:2]) == sorted(ran[2:])
    assert len(set(ran)) == 2


@pytest.mark.usefixtures("one_deterministic_thread")
@pytest.mark.long
def test_a_process_of_a_side_goes_from_one_job_to_the_next() -> None:
    jobs = [a_job("ours", case).model_dump_json() for case in ("student", "measure")]
    line = [sys.executable, "-m", "dsdctl.bench.side"]
    asked = "\n".join([jobs[0], "go", "go", jobs[1], "go", ""])
    done = subprocess.run(line, input=asked, capture_output=True, text=True, check=True)
    ready, first, second, again, other = done.stdout.split()
    assert ready == again == "ready"
    assert min(map(float, (first, second, other))) > 0


def test_a_spread_is_the_median_and_the_ends() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(median=2.0, min=1.0, max=3.0)


PIXELS = np.arange(4 * 32 * 32 * 3).astype(np.uint8).reshape(4, 32, 32, 3)


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (PIXELS[:, :8, :8, 0], [0, 1, 0, 1], "images of 8 x 8 x 1 in 2 classes (allowed: 32 x 32"),
        (PIXELS.astype(np.float32), [0, 1, 0, 1], "x_train: float32"),
        (
            PIXELS.repeat(3, axis=0)[:11],
            [*range(11)],
            "in 11 classes (allowed: 32 x 32 x 3 in at most 10)",
        ),
        (PIXELS, [0, 1, 2, -1], "y_train: label -1"),
        (PIXELS[:0], [], "x_train: uint8 of shape (0, 32, 32, 3)"),
        (PIXELS, [0, 1, 0, 1], "holds 4 images, 768 are needed"),
    ],
)
def test_unfit_images_are_bad_input(
    tmp_path: Path, images: np.ndarray, labels: list[int], reason: str
) -> None:
    file = tmp_path / "images.npz"
    np.savez(file, x_train=images, y_train=np.array(labels, dtype=np.int64))
    line = only_problem(lambda: load_images(file, 768))
    assert line.startswith(f"--images: {file}: ")
    assert reason in line


@pytest.mark.parametrize("content", [b"", b"PK\3\4 cut off", b"\x93NUMPY no archive"])
def test_what_is_no_archive_is_bad_input(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "images.npz"
    file.write_bytes(content)
    assert "not a readable .npz archive" in only_problem(lambda: load_images(file, 2))


def test_the_first_images_of_an_archive_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "images.npz"
    np.savez(file, x_train=PIXELS, y_train=np.array([3, 1, 0, 2]))
    split = load_images(file, 2)
    assert torch.equal(split.pixels, torch.from_numpy(PIXELS[:2]))
    assert split.labels.tolist() == [3, 1]


def test_a_missing_archive_is_bad_input(dsdctl: Dsdctl, tmp_path: Path) -> None:
    done = dsdctl("bench", "--device", "cpu", "--images", tmp_path / "none.npz")
    assert done.returncode == 2
    assert done.stderr == f"--images: {tmp_path / 'none.npz'}: no such file\n"


def test_an_unknown_case_is_bad_input(dsdctl: Dsdctl) -> None:
    done = dsdctl("bench", "--case", "students")
    assert done.returncode == 2
    assert done.stderr.startswith("--case: students (allowed: student, student-adamw, ")
