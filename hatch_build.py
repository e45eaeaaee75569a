"""Compiles dsdctl/ml/kernels.cpp while dsdctl is installed, where there is a C++ compiler.

Without one, or if it fails, everything works all the same, slower on CPUs.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("dsdctl/ml/kernels.cpp")
LIBRARY = SOURCE.with_name("libkernels.so")
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-shared", "-Wno-psabi"]


class KernelBuilder(BuildHookInterface[Any]):
    """Adds the library to a wheel, or puts it beside its source for an editable installation."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        reason = compile_kernels(root / SOURCE, root / LIBRARY)
        if reason:
            (root / LIBRARY).unlink(missing_ok=True)
            self.app.display_warning(f"dsdctl is installed without compiled kernels: {reason}")
            return
        build_data["artifacts"].append(LIBRARY.as_posix())
        build_data["pure_python"] = False
        # It is called through ctypes, and so is of the platform but of no version of Python.
        build_data["tag"] = f"py3-none-{_platform()}"


def compile_kernels(source: Path, library: Path) -> str:
    """Compile `source` into `library`; why not, where that fails."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        return f"there is no C++ compiler ({compiler[0]})"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [*compiler, *FLAGS, f'-DSOURCE_DIGEST="{digest}"', str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{shlex.join(command)} failed\n{done.stderr}"
        made.replace(library)
    return ""


def _platform() -> str:
    from packaging.tags import platform_tags

    return next(iter(platform_tags()))
