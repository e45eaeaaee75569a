"""Loading a user's code from the bytes that were hashed, since its files may have changed.

The modules of a source get a prefix made of its digest, so that two files called `blocks.py` do not
collide. Imports among them are redirected to these modules.
"""

import builtins
import importlib
import importlib.abc
import importlib.util
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from dsdctl.own.source import INIT, Source

PREFIX, MAIN = "dsdctl_own_", "__network__"

_LOADING = threading.Lock()


def load(source: Source) -> Callable[..., Any]:
    """The callable that a source names; its modules are run once per process.

    Raises whatever the code raises, and AttributeError if it does not define the name.
    """
    prefix = PREFIX + source.digest[:32]
    with _LOADING:
        if prefix not in sys.modules:
            if source.third_party:  # any of them may want torchvision, as timm does
                importlib.import_module("dsdctl.system.torchvision")
            sys.meta_path.insert(0, _Finder(prefix, source))
        return getattr(importlib.import_module(f"{prefix}.{_inner(source)}"), source.name)  # type: ignore[no-any-return]


def raised_at(error: BaseException, source: Source) -> str:
    """One line about an exception in a user's code, with the innermost line of that code."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    place, trace = "", error.__traceback__
    files = {_file(source, path) for path in source.files}
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in files:
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}: "
        trace = trace.tb_next
    said = " ".join(str(error).split())
    return f"{place}{type(error).__name__}" + (f": {said}" if said else "")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of one source, all under a prefix."""

    def __init__(self, prefix: str, source: Source):
        self._prefix = prefix
        self._source = source
        self._tops = {path.partition("/")[0].removesuffix(".py") for path in source.files}

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: types.ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """A module of the source; folders without an __init__.py are packages too."""
        if fullname == self._prefix:
            return ModuleSpec(fullname, self, is_package=True)
        if not fullname.startswith(f"{self._prefix}."):
            return None
        found = self._path(fullname)
        if found is None:
            folder = self._inner(fullname) + "/"
            there = any(path.startswith(folder) for path in self._source.files)
            return ModuleSpec(fullname, self, is_package=True) if there else None
        origin = _file(self._source, found)
        spec = ModuleSpec(fullname, self, origin=origin, is_package=found.endswith(f"/{INIT}"))
        spec.has_location = True
        return spec

    def exec_module(self, module: types.ModuleType) -> None:
        """Run a module's code, with an `import` that looks into its source first."""
        path = self._path(module.__name__)
        if path is None:
            return
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self._import}
        code = compile(self._source.files[path], _file(self._source, path), "exec")
        exec(code, module.__dict__)

    def get_source(self, fullname: str) -> str | None:
        """A module's source text, for tracebacks."""
        path = self._path(fullname)
        return None if path is None else importlib.util.decode_source(self._source.files[path])

    def is_package(self, fullname: str) -> bool:
        path = self._path(fullname)
        return path is None or path.endswith(f"/{INIT}")

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,  # noqa: A002
        locals: Mapping[str, object] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        own = f"{self._prefix}.{name}"
        top, _, _ = name.partition(".")
        # A package's compiled modules are not in its source, and are imported as usual.
        if level or top not in self._tops or self.find_spec(own) is None:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = builtins.__import__(own, globals, locals, fromlist or (), 0)
        return module if fromlist else sys.modules[f"{self._prefix}.{top}"]

    def _path(self, fullname: str) -> str | None:
        inner = self._inner(fullname)
        if inner == _inner(self._source).replace(".", "/"):
            return self._source.main
        names = (f"{inner}/{INIT}", f"{inner}.py")
        return next((name for name in names if name in self._source.files), None)

    def _inner(self, fullname: str) -> str:
        return fullname.removeprefix(self._prefix).lstrip(".").replace(".", "/")


def _inner(source: Source) -> str:
    """The main module's name below the prefix; a lone file's name need not be an identifier."""
    return source.module if source.package else MAIN


def _file(source: Source, path: str) -> str:
    return str(Path(source.root) / path)
