"""Which kernels are used: what is decided, and from what."""

import os
import subprocess
import sys
from typing import get_args

import pytest

from dsdctl.errors import InputError
from dsdctl.ml.kernels.choice import Kernel, Mode, Processor, choose, kernel_mode
from dsdctl.system.devices import KERNELS_VARIABLE

AMD, INTEL = "AuthenticAMD", "GenuineIntel"
AVX2 = frozenset({"avx2"})
AVX512 = AVX2 | {"avx512"}
BF16 = AVX512 | {"avx512-bf16"}
AMX = BF16 | {"amx-bf16"}
NORM, FP32, BFLOAT16 = KERNELS = get_args(Kernel)


def used(vendor: str, features: frozenset[str], mode: Mode = "auto") -> dict[Kernel, str]:
    chosen = choose(Processor(vendor, features), mode)
    assert tuple(chosen) == KERNELS
    return {kernel: c.instructions for kernel, c in chosen.items() if c.instructions}


@pytest.mark.parametrize(
    ("vendor", "features", "expected"),
    [
        (AMD, BF16, {NORM: "avx512", FP32: "avx512", BFLOAT16: "avx512"}),
        (AMD, AVX512, {NORM: "avx512", FP32: "avx512"}),
        (AMD, AVX2, {NORM: "avx2"}),
        (AMD, AMX, {NORM: "avx512", FP32: "avx512"}),
        (AMD, frozenset(), {}),
        (INTEL, AMX, {NORM: "avx512"}),
        (INTEL, BF16, {NORM: "avx512"}),
        (INTEL, AVX512, {NORM: "avx512"}),
        (INTEL, AVX2, {NORM: "avx2"}),
        ("another", BF16, {NORM: "avx512"}),
        ("unknown", frozenset({"generic"}), {NORM: "generic"}),
    ],
)
def test_gradients_of_weights_are_for_amd_and_norms_for_all(
    vendor: str, features: frozenset[str], expected: dict[Kernel, str]
) -> None:
    assert used(vendor, features) == expected


def test_all_is_what_the_processor_can_run() -> None:
    assert used(INTEL, AMX, "all") == dict.fromkeys(KERNELS, "avx512")
    assert used(INTEL, AVX2, "all") == {NORM: "avx2"}


@pytest.mark.parametrize("vendor", [AMD, INTEL])
def test_avx2_is_a_processor_without_more(vendor: str) -> None:
    assert used(vendor, AMX, "avx2") == used(vendor, AVX2) == {NORM: "avx2"}
    assert used(vendor, frozenset({"generic"}), "avx2") == {}


@pytest.mark.parametrize("mode", get_args(Mode))
def test_each_choice_has_a_reason(mode: Mode) -> None:
    for vendor in (AMD, INTEL):
        for features in (frozenset[str](), AVX2, AVX512, BF16, AMX):
            assert all(c.reason for c in choose(Processor(vendor, features), mode).values())


def test_off_is_none_and_so_is_no_library() -> None:
    for processor, mode, reason in (
        (Processor(AMD, BF16), "off", "$DSDCTL_KERNELS is off"),
        (None, "off", "$DSDCTL_KERNELS is off"),
        (None, "auto", "not compiled"),
    ):
        for choice in choose(processor, mode).values():
            assert (choice.instructions, choice.reason) == (None, reason)


def test_the_mode_is_the_environments() -> None:
    assert kernel_mode({}) == kernel_mode({KERNELS_VARIABLE: ""}) == "auto"
    for mode in get_args(Mode):
        assert kernel_mode({KERNELS_VARIABLE: mode}) == mode


@pytest.mark.parametrize("wish", ["on", "OFF", "0", "avx512", "off "])
def test_another_mode_is_bad_input(wish: str) -> None:
    with pytest.raises(InputError) as caught:
        kernel_mode({KERNELS_VARIABLE: wish})
    assert caught.value.problems == (f"$DSDCTL_KERNELS: {wish!r} (allowed: auto, all, avx2, off)",)


def test_it_is_read_without_torch() -> None:
    program = "import sys, dsdctl.ml.kernels.choice; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == b"False\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.usefixtures("compiled")
def test_the_processor_is_as_the_kernel_sees_it() -> None:
    from dsdctl.ml.kernels import kernels

    with open("/proc/cpuinfo") as file:
        facts = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines())
    facts = {name.strip(): value.split() for name, value in facts.items()}
    if "vendor_id" not in facts:
        pytest.skip(f"no x86 processor ({os.uname().machine})")
    names = {
        "avx2": "avx2",
        "avx512f": "avx512",
        "avx512_bf16": "avx512-bf16",
        "amx_bf16": "amx-bf16",
    }
    features = frozenset(names[flag] for flag in facts["flags"] if flag in names)
    assert kernels.processor() == Processor(facts["vendor_id"][0], features)
