"""Compile for an H100 what a training step calls of the kernels for GPUs; there need not be one.

    python -m tests.gpu.compile [student | distilled | teacher]...

Prints for each kernel the registers of a thread, the bytes on its stack, where what did not fit
goes, and those of shared memory; ends with 1 where one does not compile.
"""

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel
from triton.runtime.jit import JITFunction

from dsdctl.bench.cases import CLASSES, Job, case_masks, case_network, case_settings
from dsdctl.ml import gpu
from dsdctl.ml.divergence import Diverged
from dsdctl.ml.teacher import cached_logits, distillation_from
from dsdctl.ml.train import Trainer, cross_entropy
from dsdctl.ml.views import ViewReader

H100 = GPUTarget("cuda", 90, 32)
CASES = ("student", "distilled", "teacher")
_TYPES = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.uint8: "*u8", torch.int64: "*i64",
    int: "i32", float: "fp32",
}  # fmt: skip


@dataclass
class Variant:
    """A kernel as it was called: the types of its arguments, its constants, its options."""

    kernel: Any
    types: dict[str, str]
    constants: dict[tuple[int], Any]
    divisible: dict[tuple[int], list[list[Any]]]
    options: dict[str, Any]

    def __str__(self) -> str:
        names = [self.kernel.params[index].name for (index,) in self.constants]
        given = zip(names, self.constants.values(), strict=True)
        return f"{self.kernel.fn.__name__}({', '.join(f'{n}={v}' for n, v in given)})"


class Recorder:
    """Takes the place of starting kernels, and remembers them."""

    def __init__(self) -> None:
        self.variants: dict[str, Variant] = {}

    def run(self, kernel: Any, *args: Any, **named: Any) -> None:
        for unused in ("grid", "warmup"):
            del named[unused]
        names = [parameter.name for parameter in kernel.params]
        values = dict(zip(names, args, strict=False))
        values |= {name: value for name, value in named.items() if name in names}
        options = {name: value for name, value in named.items() if name not in names}
        variant = Variant(kernel, {}, {}, {}, options)
        for index, parameter in enumerate(kernel.params):
            value = values[parameter.name]
            if parameter.is_constexpr or value is None:
                variant.types[parameter.name] = "constexpr"
                variant.constants[(index,)] = value
                continue
            kind = value.dtype if isinstance(value, torch.Tensor) else type(value)
            variant.types[parameter.name] = _TYPES[kind]
            counts = isinstance(value, int) and not parameter.do_not_specialize
            if isinstance(value, torch.Tensor) or (counts and value % 16 == 0):
                variant.divisible[(index,)] = [["tt.divisibility", 16]]
        self.variants.setdefault(f"{variant} {variant.types} {options}", variant)


def step(case: str) -> None:
    """Train one batch on the CPU; what the kernels would compute is left undone."""
    job = Job(
        side="ours", case="teacher" if case == "teacher" else "student", precision="bf16",
        device="cpu", threads=1, batches=1, images=None,
    )  # fmt: skip
    assert job.case != "table"
    network = case_network(job.case)
    images = torch.zeros(job.batch_size, 32, 32, 3, dtype=torch.uint8)
    labels = torch.zeros(len(images), dtype=torch.int64)
    loss = cross_entropy
    if case == "distilled":
        table = torch.zeros(len(images), job.views.count, CLASSES)
        loss = distillation_from(cached_logits(table), alpha=0.8, temperature=10.0)
    trainer = Trainer(network, case_masks(network), case_settings(job), loss)
    reader = ViewReader(images, job.normalization, job.views)
    try:
        trainer.train_epoch(reader, labels, seed=0, level=0, epoch=0)
    except Diverged:
        return


def compiled(variant: Variant) -> str:
    """A thread's registers and stack, where what does not fit goes, and shared memory; in bytes."""
    source = ASTSource(variant.kernel, variant.types, variant.constants, variant.divisible)
    kernel = compile_kernel(source, target=H100, options=variant.options)
    with tempfile.NamedTemporaryFile() as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        reader = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        command = [reader, "--dump-resource-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = dict(re.findall(r"(REG|STACK):(\d+)", said))
    registers, stack = usage["REG"], usage["STACK"]
    return f"{registers:>3} registers {stack:>4} on the stack {kernel.metadata.shared:>6} shared"


def main() -> int:
    """Compile; print a line for each kernel."""
    recorder = Recorder()
    JITFunction.run = lambda kernel, *args, **named: recorder.run(kernel, *args, **named)
    gpu.used_on = lambda _device: True  # type: ignore[assignment]
    for case in sys.argv[1:] or CASES:
        step(case)
    failed = 0
    for variant in recorder.variants.values():
        try:
            print(f"{compiled(variant)}  {variant}", flush=True)
        except Exception as error:
            failed += 1
            print(f"does not compile: {variant}: {error}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
