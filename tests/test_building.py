"""What is installed: the kernels compiled where there is a compiler, and all else in any case."""

import ctypes
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.tags import sys_tags
from tiny import ROOT
from wheels import check_kernels

SOURCE, LIBRARY = "dsdctl/ml/kernels/kernels.cpp", "dsdctl/ml/kernels/libkernels.so"


def hook() -> ModuleType:
    """hatch_build.py, which is no module of the package."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(kind: str, project: Path, out: Path, **environment: str) -> tuple[Path, str]:
    """What `hatchling build` makes of a project, and what it says on standard error."""
    line = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(out)]
    done = subprocess.run(
        line, cwd=project, env={**os.environ, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made, done.stderr


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution of this tree, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    archive, _ = build("sdist", ROOT, folder / "made")
    subprocess.run(["tar", "-xzf", archive, "-C", folder], check=True)
    (project,) = folder.glob("dsdctl-*")
    return project


def test_a_source_distribution_has_what_to_compile_and_nothing_compiled(unpacked: Path) -> None:
    assert (unpacked / "hatch_build.py").is_file()
    assert (unpacked / SOURCE).is_file()
    assert list(unpacked.rglob("*.so")) == []


def names(folder: Path) -> set[str]:
    """What lies in a folder of specs, recipes or templates."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*.*") if file.suffix != ".pyc"}


def test_a_source_distribution_has_all_that_is_tracked(unpacked: Path) -> None:
    """So what the README's commands and the tests need is there too."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    line = ["git", "ls-files", "--cached", "--exclude-standard"]
    listed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    present = {name for name in listed.splitlines() if (ROOT / name).is_file()}
    packed = {file.relative_to(unpacked).as_posix() for file in unpacked.rglob("*")}
    assert present - packed == set()


@pytest.mark.long
def test_a_wheel_has_the_library_of_its_source_and_is_of_this_platform(
    unpacked: Path, tmp_path: Path
) -> None:
    (compiler, *_) = shlex.split(os.environ.get("CXX") or "c++")
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no C++ compiler ({compiler})")
    (unpacked / LIBRARY).write_bytes(b"of another time")
    wheel, said = build("wheel", unpacked, tmp_path / "made")
    assert "without" not in said
    tag = "-".join(wheel.stem.split("-")[-3:])
    assert tag in map(str, sys_tags())
    assert tag.startswith("py3-none-")
    assert not re.search("any|manylinux", tag)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    for name in ("recipes", "specs", "templates"):
        shipped, there = (names(folder / name) for folder in (ROOT, tmp_path / "installed/dsdctl"))
        assert shipped and there == shipped
    sources = check_kernels(tmp_path / "installed")
    assert set(sources) == {file.name for file in hook().sources(ROOT / SOURCE)}
    # An editable installation reads the tree itself.
    assert (unpacked / LIBRARY).read_bytes() == (tmp_path / "installed" / LIBRARY).read_bytes()


@pytest.mark.parametrize("compiler", ["c++", "aarch64-linux-gnu-g++"])
def test_the_kernels_compile_without_what_is_of_x86_alone(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stands in for compilers of other processors where there are none."""
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    monkeypatch.setenv("CXX", compiler)
    source = tmp_path / "kernels.cpp"
    for file in hook().sources(ROOT / SOURCE):
        text = file.read_text().replace("__x86_64__", "__of_another_processor__")
        (tmp_path / file.name).write_text(text)
    library = tmp_path / "libkernels.so"
    assert hook().compile_kernels(source, library) == ""
    if compiler == "c++":
        compiled = ctypes.CDLL(str(library))
        assert hasattr(compiled, "relu_norm_forward_float32_generic")
        assert not hasattr(compiled, "relu_norm_forward_float32_avx2")


def test_on_macos_a_wheel_is_of_what_pip_there_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    build = hook()
    monkeypatch.setattr(build, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(platform, "mac_ver", lambda: ("14.4", ("", "", ""), "arm64"))
    assert build.platform_tag() == "macosx_14_0_arm64"


def test_without_a_compiler_a_wheel_is_of_any_platform_and_has_no_library(
    unpacked: Path, tmp_path: Path
) -> None:
    (unpacked / LIBRARY).write_bytes(b"of another time")
    wheel, said = build("wheel", unpacked, tmp_path / "made", CXX="/nonexistent/c++")
    assert "without compiled kernels: there is no C++ compiler (/nonexistent/c++)" in said
    assert wheel.name.endswith("-py3-none-any.whl")
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")] == []
    assert not (unpacked / LIBRARY).exists()


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("/nonexistent/c++", "there is no C++ compiler (/nonexistent/c++)"),
        ("sh -c 'echo out of order >&2; exit 1'", "kernels.so failed\nout of order\n"),
    ],
)
def test_what_cannot_be_compiled_is_said_and_leaves_nothing(
    compiler: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    library = tmp_path / "libkernels.so"
    library.write_bytes(b"of another time")
    assert hook().compile_kernels(ROOT / SOURCE, library).endswith(reason)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "sh")
    library = tmp_path / "absent" / "libkernels.so"
    assert str(library.parent) in hook().compile_kernels(ROOT / SOURCE, library)
