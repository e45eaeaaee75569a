import pytest
import torch

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
