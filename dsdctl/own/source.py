"""A user's code as files: which ones belong to it, and its digest. Nothing is run.

The code of a network is one Python file with the files that it imports from its own folder, or an
installed package with all its Python files. Its identity is the content of these files, not their
location.
"""

import functools
import hashlib
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dsdctl.errors import InputError, WorkError
from dsdctl.own.syntax import ANY_NAME, bound_names, defined_names, imported, parse
from dsdctl.spec.fields import Model
from dsdctl.spec.problems import nearest
from dsdctl.system.files import is_there
from dsdctl.system.writing import write_named

MAX_BYTES, MAX_FILES = 4 * 2**20, 2000
"""Upper limits on all files together, since each level keeps a copy of them."""

INIT = "__init__.py"

KNOWN_ELSEWHERE = {"torch", "dsdctl"}
"""Packages whose versions each level records anyway."""


class SourcePlace(Model):
    """Where to read a source again, and its digest when the run was planned."""

    root: str
    main: str
    name: str
    package: bool
    paths: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Source:
    """Files of Python code by their paths below `root`, and the callable in them that is meant.

    `name` is defined by the file `main`. The paths of a `package` begin with its name.
    """

    root: str
    main: str
    name: str
    package: bool
    files: Mapping[str, bytes]

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the names and content of all files, without the name of a lone main file."""
        lines = [
            ("" if path == self.main and not self.package else path, sha256_of(content))
            for path, content in self.files.items()
        ]
        return sha256_of(json.dumps(sorted(lines)).encode())

    @property
    def shown(self) -> str:
        """Its name in messages: the main file's path, or the module of a package."""
        return dotted(self.main) if self.package else str(Path(self.root) / self.main)

    @property
    def module(self) -> str:
        """The dotted name of the main module, relative to the root."""
        return dotted(self.main) if self.package else PurePosixPath(self.main).stem

    @property
    def arch(self) -> str:
        """Its `arch` in a spec that is in the root folder."""
        return f"{dotted(self.main) if self.package else self.main}:{self.name}"

    @property
    def place(self) -> SourcePlace:
        """Where to read it again, for `read_again`."""
        return SourcePlace(
            root=str(Path(self.root).absolute()),
            main=self.main,
            name=self.name,
            package=self.package,
            paths=tuple(self.files),
            digest=self.digest,
        )

    def to_json(self) -> bytes:
        """All of it but the root as JSON, to be kept with the results."""
        files = {path: content.decode(errors="surrogateescape") for path, content in self._sorted()}
        facts = {"main": self.main, "name": self.name, "package": self.package, "files": files}
        return json.dumps(facts, indent=1).encode()

    def _sorted(self) -> list[tuple[str, bytes]]:
        return sorted(self.files.items())

    @functools.cached_property
    def third_party(self) -> list[str]:
        """The top-level modules that it imports from elsewhere, without the standard library.

        Raises InputError if a file is not valid Python.
        """
        own = {path.partition("/")[0].removesuffix(".py") for path in self.files}
        found = {
            name.partition(".")[0]
            for path, content in self.files.items()
            for name in imported(parse(content, path), path)
        }
        return sorted(found - own - sys.stdlib_module_names - KNOWN_ELSEWHERE)


def source_from_json(content: bytes, root: str) -> Source:
    """The source that `to_json` wrote; `root` is only shown.

    Raises ValueError, KeyError or TypeError if `content` is not one.
    """
    facts: dict[str, Any] = json.loads(content)
    files = {
        path: text.encode(errors="surrogateescape") for path, text in facts.pop("files").items()
    }
    return Source(root=root, files=files, **facts)


def write_source(source: Source, folder: Path) -> list[Path]:
    """Write the files of a source into a folder, and return their paths.

    Raises InputError, before anything is written, if one of them exists or would be outside.
    """
    contents = {folder / path: content for path, content in source.files.items()}
    there = [file for file in contents if is_there(file)]
    if there:
        raise InputError(*(f"{file}: already exists, nothing was written" for file in there))
    for path in map(PurePosixPath, source.files):
        if path.is_absolute() or ".." in path.parts:  # of a store that others wrote
            raise InputError(f"{path}: would be written outside of {folder}")
    for file, content in contents.items():
        write_named(file, content, parents=True)
    return list(contents)


def read_again(place: SourcePlace) -> Source:
    """Read a source again from where it was when the run was planned.

    Raises WorkError if it cannot be read, or has changed.
    """
    root = Path(place.root)
    shown = root / place.main
    try:
        files = {path: (root / path).read_bytes() for path in place.paths}
    except OSError as error:
        raise WorkError(f"{error.filename or shown}: {error.strerror or error}") from error
    source = Source(place.root, place.main, place.name, place.package, files)
    if source.digest != place.digest:
        raise WorkError(f"{shown}: changed since the run was planned")
    return source


def find_source(file: Path, name: str, more: Sequence[str]) -> Source:
    """The source that is a Python file, with the files that it imports from its own folder.

    `more` are further paths, relative to that folder. Raises InputError with a reason.
    """
    root = file.parent
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    files: dict[str, bytes] = {}
    waiting = [file.name, *(_listed(root, path) for path in more)]
    while waiting:
        path = waiting.pop()
        if path in files:
            continue
        files[path] = _read(root / path)
        _check_size(files, str(file))
        tree = parse(files[path], str(root / path))
        waiting += [found for module in imported(tree, path) for found in _paths_of(root, module)]
    source = Source(str(root), file.name, name, False, files)
    _check_name(source)
    return source


def find_package(module: str, name: str) -> Source:
    """The source that is the installed package of `module`, which defines `name`.

    Raises InputError with a reason.
    """
    top = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)  # imports nothing, since it has no parent
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise InputError(f"no module {top} is installed here")
    root, files = _package_files(top, spec)
    main = next((path for path in _file_names(module) if path in files), None)
    if main is None:
        raise InputError(f"{top} has no module {module} in Python")
    source = Source(str(root), main, name, True, files)
    _check_name(source)
    return source


def dotted(path: str) -> str:
    """The dotted name of the module at a path below the root."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _package_files(top: str, spec: importlib.machinery.ModuleSpec) -> tuple[Path, dict[str, bytes]]:
    if spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations)))
        found: Iterable[Path] = sorted(folder.rglob("*.py"))
        root = folder.parent
    else:
        file = Path(spec.origin or "")
        found, root = [file] if file.suffix == ".py" else [], file.parent
    files: dict[str, bytes] = {}
    for file in found:
        files[file.relative_to(root).as_posix()] = _read(file)
        _check_size(files, top)
    return root, files


def _listed(root: Path, path: str) -> str:
    file = root / path
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"sources: {file}: no such Python file")
    inner = PurePosixPath(path)
    if inner.is_absolute() or ".." in inner.parts:
        raise InputError(
            f"sources: {path}: is not below {root} (allowed: files beside the network)"
        )
    return inner.as_posix()


def _paths_of(root: Path, module: str) -> Iterator[str]:
    """The files below the root that importing `module` would run."""
    parts = module.split(".")
    found = [path for path in _file_names(module) if (root / path).is_file()]
    if found or len(parts) == 1:
        yield from found
        packages = ("/".join((*parts[:end], INIT)) for end in range(1, len(parts)))
        yield from (path for path in packages if (root / path).is_file())
    else:
        yield from _paths_of(root, ".".join(parts[:-1]))


def _file_names(module: str) -> tuple[str, str]:
    """The paths where a module may be, in Python's order: a package, then a file."""
    inner = module.replace(".", "/")
    return f"{inner}/{INIT}", f"{inner}.py"


def _check_name(source: Source) -> None:
    tree = parse(source.files[source.main], source.shown)
    names = bound_names(tree)
    if source.name not in names and ANY_NAME not in names:
        likely = defined_names(tree)
        allowed = f" (allowed: {', '.join(likely)})" if likely else ""
        raise InputError(
            f"{source.shown} has no {source.name}{nearest(source.name, names)}{allowed}"
        )


def _check_size(files: Mapping[str, bytes], shown: str) -> None:
    if len(files) > MAX_FILES or sum(map(len, files.values())) > MAX_BYTES:
        raise InputError(
            f"{shown}: the code is too large to be kept with each level (allowed: {MAX_FILES} "
            f"files of {MAX_BYTES // 2**20} MiB; a file of your own may import a large package)"
        )


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error


def sha256_of(content: bytes) -> str:
    """sha256 of content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()
