"""What `dsdctl run` does on a GPU: several jobs, keys and costs, kernels off, a full memory."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .checks_agreement import allowed
from .gradients import KINDS, distance
from .small import KERNELS, NO_GPU, dsdctl, python_path, random_archive, result_bytes, write_spec

FULL = "the GPU's memory is full, try fewer --jobs"
LEFT = 3 * 2**29
"""Bytes that are left for the run that is to find the memory full: enough for CUDA itself."""


def jobs_at_once_give_the_bytes_of_one(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """Three seeds, alone and distilled, with --jobs 3 and with --jobs 1, in two stores.

    In place of wandb stands a module that says so when it is imported, which none may do.
    """
    spec = _spec(folder, tiny)
    stub = folder / "stub" / "wandb.py"
    stub.parent.mkdir()
    stub.write_text("open(__file__ + '.imported', 'w').close()\nraise ImportError('not here')\n")
    path = os.pathsep.join([str(stub.parent), python_path()])

    def run(jobs: int) -> subprocess.CompletedProcess[str]:
        line = ("run", spec, "--store", f"jobs-{jobs}", "--device", device, "--jobs", jobs)
        return dsdctl(folder, *line, PYTHONPATH=path)

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(run, (3, 1)))
    three, one = (result_bytes(folder / f"jobs-{jobs}") for jobs in (3, 1))
    differing = [name for name in three.keys() | one.keys() if three.get(name) != one.get(name)]
    codes, wandb = [done.returncode for done in ended], Path(f"{stub}.imported").exists()
    return {
        "holds": bool(one) and not differing and not wandb and not any(codes),
        "files": len(one),
        "differing": sorted(differing)[:10],
        "exit_codes": codes,
        "errors": [done.stderr[-1000:] for done in ended if done.returncode],
        "imports_wandb": wandb,
    }


def _spec(folder: Path, tiny: bool) -> Path:
    images = random_archive(folder / "images.npz", *((70, 20, 8) if tiny else (1000, 200)))
    options: dict[str, Any] = {}
    if tiny:
        options["student"] = {"arch": "vgg-like", "depth": 1, "width": 4, "pool": 2}
        options["teacher"] = {"arch": "vgg-like", "depth": 1, "width": 4, "pool": 2}
        options["training"] = {"epochs": 2, "batch_size": 32}
    return write_spec(
        folder / "several.yaml",
        images,
        recipes=["vanilla", "kd-dense-teacher"],
        seeds=[0, 1, 2],
        **options,
    )


def keys_and_costs_are_those_of_a_machine_without_a_gpu(
    device: str, tiny: bool, folder: Path
) -> dict[str, Any]:
    """`dsdctl plan --json` of what the device has run, with the GPU and with none to be seen."""
    images = random_archive(folder / "images.npz", *((70, 20, 8) if tiny else (1000, 200)))
    student = {"arch": "vgg-like", "depth": 1, "width": 4, "pool": 2}
    training = {"epochs": 1, "batch_size": 128, "precision": "tf32"}
    spec = write_spec(folder / "planned.yaml", images, student=student, training=training)
    ran = dsdctl(folder, "run", spec, "--store", "store", "--device", device)
    line = ("plan", spec, "--store", "store", "--json")
    environments: list[Mapping[str, str]] = [{}, NO_GPU]
    with ThreadPoolExecutor(2) as pool:
        planned = list(pool.map(lambda more: dsdctl(folder, *line, **more), environments))
    plans = [json.loads(done.stdout) for done in planned]
    for plan in plans:
        plan["totals"].pop("seconds_estimate")  # of the device that it is planned for
    done = [trajectory["levels_done"] for trajectory in plans[1]["trajectories"]]
    return {
        "holds": ran.returncode == 0 and plans[0] == plans[1] and done == [2],
        "levels_done": done,
        "same_plan": plans[0] == plans[1],
        "error": ran.stderr[-500:] if ran.returncode else "",
    }


def gradients_with_and_without_kernels(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """The same gradients from a process with DSDCTL_KERNELS=off and one with them.

    Those with them must be as near to float64 as those without, but for chance.
    """
    from safetensors.torch import load_file

    def saved(mode: str) -> Path:
        file = folder / f"{mode}.safetensors"
        line = [sys.executable, "-m", "tests.gpu.gradients", device]
        environment = {**os.environ, "PYTHONPATH": python_path(), "DSDCTL_KERNELS": mode}
        subprocess.run(
            [*line, "tiny" if tiny else "real", str(file)],
            check=True, env=environment, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return file

    with ThreadPoolExecutor(2) as pool:
        on, off = map(load_file, pool.map(saved, (KERNELS, "off")))
    found: dict[str, Any] = {}
    for kind in KINDS:
        exact = off[f"{kind} float64"]
        bounds = allowed(*(distance(off[f"{kind} {name}"], exact) for name in ("fp32", "bf16")))
        for name, bound in bounds.items():
            found[f"{kind} {name}"] = {
                "apart": distance(on[f"{kind} {name}"], off[f"{kind} {name}"]),
                "off_with": distance(on[f"{kind} {name}"], exact),
                "off_without": distance(off[f"{kind} {name}"], exact),
                "allowed": bound,
            }
    return {"holds": all(one["off_with"] <= one["allowed"] for one in found.values()), **found}


def a_full_memory(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """A run that finds the memory taken by another process says so, and exits with 3."""
    if device == "cpu":
        return {"holds": None, "why": "there is no GPU"}
    import torch

    images = random_archive(folder / "images.npz", 8192, 100)
    training = {"epochs": 1, "batch_size": 8192}
    student = {"arch": "vgg-like", "depth": 5, "width": 32}
    spec = write_spec(folder / "large.yaml", images, student=student, training=training)
    torch.cuda.empty_cache()
    free, _total = torch.cuda.mem_get_info()
    held = torch.empty(free - LEFT, dtype=torch.uint8, device=device)
    try:
        done = dsdctl(folder, "run", spec, "--store", "store", "--device", device, "--jobs", 1)
    finally:
        del held
        torch.cuda.empty_cache()
    details = {"exit_code": done.returncode, "stderr": done.stderr[-1500:]}
    tidy = "Traceback" not in done.stderr
    return {"holds": done.returncode == 3 and FULL in done.stderr and tidy, **details}
