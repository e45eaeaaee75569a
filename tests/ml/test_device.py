import threading
from collections.abc import Callable

import pytest
import torch
from soak import wait_until

from dsdctl.ml import device
from dsdctl.ml.device import configure, precision

CPU = torch.device("cpu")


@pytest.mark.usefixtures("one_deterministic_thread")
def test_configure_sets_threads_determinism_and_flushes_denormals() -> None:
    torch.use_deterministic_algorithms(False)
    torch.set_flush_denormal(False)
    configure(CPU, 1)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()
    assert float(torch.tensor([1e-30]) * 1e-10) == 0  # 1e-40 is a denormal


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_products_are_computed_in_the_declared_precision(name: str, dtype: torch.dtype) -> None:
    matrix = torch.ones(2, 2)
    with precision(name, CPU):
        assert (matrix @ matrix).dtype == dtype
    assert (matrix @ matrix).dtype == torch.float32


def test_tf32_is_allowed_only_while_it_is_declared() -> None:
    with precision("tf32", CPU):
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    for name in ("fp32", "bf16"):
        with precision(name, CPU):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32


def test_tf32_waits_for_other_threads_without_it_and_is_not_overtaken() -> None:
    """Each thread says the setting that it computes with, as it begins and as it ends."""
    said: list[tuple[str, str]] = []

    def compute(name: str) -> None:
        with precision(name, CPU):
            said.append((name, torch.get_float32_matmul_precision()))
            said.append((name, torch.get_float32_matmul_precision()))

    with precision("fp32", CPU):
        first = started(compute, "tf32")
        wait_until(device._matrix_units._turn.locked)
        second = started(compute, "bf16")  # which could compute beside this one
        second.join(0.2)
        assert said == []
        assert torch.get_float32_matmul_precision() == "highest"
    first.join()
    second.join()
    assert said == [("tf32", "high"), ("tf32", "high"), ("bf16", "highest"), ("bf16", "highest")]


@pytest.mark.parametrize("names", [("fp32", "bf16"), ("tf32", "tf32")])
def test_threads_that_round_alike_compute_at_once(names: tuple[str, str]) -> None:
    both_inside = threading.Barrier(2)

    def compute(name: str) -> None:
        with precision(name, CPU):
            both_inside.wait(60)

    for thread in [started(compute, name) for name in names]:
        thread.join()
    assert not both_inside.broken


def started(function: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    return thread
