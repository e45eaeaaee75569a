"""Laws of the house: what each package may import, and how long its files and functions are."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dsdctl

ROOT = Path(dsdctl.__file__).parent
TESTS = Path(__file__).parent

EVERYWHERE = {"", "errors", "units"}
"""What belongs to no package and anything may import: the version, errors, units."""

MAY_IMPORT: dict[str, set[str]] = {
    "system": set(),
    "spec": {"system"},
    "ml": {"system"},
    "own": {"spec", "system"},
    "keys": {"spec"},
    "results": {"spec"},
    "data": {"own", "keys", "spec", "system"},
    "store": {"own", "keys", "results", "spec", "system"},
    "plan": {"own", "data", "store", "keys", "results", "spec", "system"},
    "worker": {"ml", "own", "data", "store", "keys", "results", "spec", "system"},
    "cost": {"plan", "data", "store", "keys", "results", "spec", "system"},
    "slurm": {"plan", "store", "spec", "system"},
    "run": {"cost", "plan", "worker", "own", "data", "store", "keys", "results", "spec", "system"},
    "report": {"cost", "plan", "data", "store", "keys", "results", "spec", "system"},
    "tracking": {"report", "cost", "plan", "store", "keys", "results", "spec", "system"},
    "export": {
        "report", "plan", "worker", "ml", "data", "store", "keys", "results", "spec", "system",
    },
    "study": {
        "report", "run", "cost", "plan", "worker", "own", "ml", "data", "store", "keys", "results",
        "spec", "system",
    },
    "bench": {"worker", "ml", "data", "store", "keys", "results", "spec", "system"},
}  # fmt: skip
"""By package, from the lowest up, what it may import beside itself; cli may import all."""

INSIDE_FUNCTIONS = {"cost": {"ml"}}
"""What a package may import only when it is used, so that it is light."""

WITHOUT_TORCH = {"system", "own", "spec", "keys", "results", "data", "plan", "slurm"}
"""What imports torch not at all, or within functions alone."""


def package_of(module: str) -> str:
    """The package, or the module beside the packages, in which a module of dsdctl lies."""
    inner = module.removeprefix("dsdctl").lstrip(".").partition(".")[0]
    return "" if inner == "__version__" else inner


def modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield name, ast.parse(file.read_text(encoding="utf-8"))


def imports(tree: ast.AST, *, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield what is imported, and whether only when a function runs or types are checked."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", inside
        elif isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        else:
            typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing
            yield from imports(node, inside=inside or later)


MODULES = dict(modules())


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    allowed = MAY_IMPORT[package] | EVERYWHERE | {package}
    wrong = [
        f"{name} imports {imported}"
        for name, tree in MODULES.items()
        if package_of(name) == package
        for imported, inside in imports(tree)
        if imported.startswith("dsdctl")
        and package_of(imported) not in allowed
        and not (inside and package_of(imported) in INSIDE_FUNCTIONS.get(package, set()))
    ]
    assert not wrong


@pytest.mark.parametrize("package", sorted(WITHOUT_TORCH))
def test_what_plans_does_without_torch(package: str) -> None:
    wrong = [
        f"{name} imports {imported}"
        for name, tree in MODULES.items()
        if package_of(name) == package and name != "dsdctl.system.torchvision"
        for imported, inside in imports(tree)
        if not inside and imported.partition(".")[0] in ("torch", "torchvision")
    ]
    assert not wrong


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        name: {
            module
            for imported, inside in imports(tree)
            if not inside
            for module in (imported, imported.rpartition(".")[0])
            if module in MODULES and module != name
        }
        for name, tree in MODULES.items()
    }
    TopologicalSorter(graph).prepare()


MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 50

LONG_FUNCTIONS = {
    # Commands: an argument for each option, and what it does in a few lines.
    "cli.run.run", "cli.report.report", "cli.rehearse.rehearse", "cli.plan.plan",
    "cli.export.export",
    # Records of many fields, each computed in a line; a kernel, which Triton wants in one piece.
    "report.rows.make_row", "bench.run.run_bench", "ml.gpu.norm_kernels.normalize_maps",
}  # fmt: skip
"""Functions that may be longer, and why."""


def test_no_file_is_long() -> None:
    lengths = {
        file: len(file.read_text(encoding="utf-8").splitlines())
        for folder in (ROOT, TESTS)
        for file in folder.rglob("*.py")
    }
    assert not {file: lines for file, lines in lengths.items() if lines > MOST_LINES}


def test_only_named_functions_are_long() -> None:
    found = {
        f"{name.removeprefix('dsdctl.')}.{node.name}"
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    }
    assert found == LONG_FUNCTIONS
