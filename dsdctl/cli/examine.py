"""Is this machine ready, and is the store whole."""

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from dsdctl.store import maintenance
from dsdctl.store.store import Store
from dsdctl.system.devices import usable_cores
from dsdctl.units import size

PACKAGES = ("torch", "torchvision", "fvcore", "wandb", "pydantic", "typer", "rich", "safetensors")


def examine(root: Path) -> Iterator[tuple[str, bool]]:
    """Yield a line and whether it is good news, for packages, devices, disk and store."""
    for name in PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}", True
        except importlib.metadata.PackageNotFoundError:
            yield f"{name} is not installed", False
    yield from _devices()
    yield from _store(root)


def _devices() -> Iterator[tuple[str, bool]]:
    import torch

    yield f"{usable_cores()} processor cores", True
    if torch.cuda.is_available():
        from dsdctl.bench.gpu import examine_gpu

        for index in range(torch.cuda.device_count()):
            yield from examine_gpu(index)
    else:
        yield "no GPU that torch can use; levels run on the CPU", True
    yield from ((line, True) for line in _kernels())


def _kernels() -> Iterator[str]:
    from dsdctl.ml.kernels import kernels

    processor = kernels.processor()
    if processor is None:
        yield (
            "kernels: not compiled (no C++ compiler when dsdctl was installed?); "
            "training on CPUs is slower"
        )
        return
    features = ", ".join(sorted(processor.features)) or "none of AVX2 and AVX-512"
    yield (
        "kernels: compiled, for training on one thread of a CPU; "
        f"the processor is {processor.vendor} with {features}"
    )
    for kernel, choice in kernels.choices().items():
        yield f"kernel {kernel}: {choice}"


def _store(root: Path) -> Iterator[tuple[str, bool]]:
    store = Store(root)
    absence = store.absence()
    if absence is not None:
        nothing = not root.exists() or (root.is_dir() and not any(root.iterdir()))
        yield f"store {f'{root}: not there yet' if nothing else absence}", nothing
        return
    writable = os.access(root, os.W_OK)
    yield f"store {root}: {'' if writable else 'not '}writable", writable
    yield f"store {root}: {size(shutil.disk_usage(root).free)} free", True
    folders, problems = maintenance.check_all(store)
    for problem in problems:
        yield problem, False
    yield f"store {root}: {folders} folders, {len(problems)} problems", not problems
    aside = list((root / "setaside").glob("*"))
    if aside:
        yield f"store {root}: {len(aside)} corrupt items quarantined in {root}/setaside", True
