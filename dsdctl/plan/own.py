"""A spec's networks as identities hash them, and what is known of those of a user's own."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from dsdctl.errors import InputError
from dsdctl.own.inspection import Inspect, Inspection, Question
from dsdctl.own.source import Source, find_package, find_source
from dsdctl.plan.images import path_of
from dsdctl.spec.catalog import Facts
from dsdctl.spec.document import Document
from dsdctl.spec.experiment import Teacher
from dsdctl.spec.network import AnyBuiltIn, CodeNetwork, Network, OwnNetwork, Student

Who = Literal["student", "teacher"]


@dataclass(frozen=True)
class Own:
    """A user's own network: its code, and what inspection found; None if it was never inspected."""

    source: Source
    question: Question
    inspection: Inspection | None

    @property
    def name(self) -> str:
        """Its name with its options, for people."""
        options = ", ".join(
            f"{key}={value}" for key, value in self.question.network.options.items()
        )
        return f"{self.source.name}({options})" if options else self.source.name

    @property
    def known(self) -> Inspection:
        """What inspection found. Raises InputError if the network was never inspected."""
        if self.inspection is None:
            name = f"{self.source.shown}:{self.source.name}"
            raise InputError(f"{name}: not inspected on this machine yet; `dsdctl plan SPEC` does")
        return self.inspection


class Networks:
    """Turns a spec's networks into those that identities hash; reads each source once."""

    def __init__(self, inspect: Inspect):
        self._inspect = inspect
        self._find: Callable[[Path | str, str, tuple[str, ...]], Source] = functools.cache(_find)

    def resolve(
        self, document: Document, who: Who, choice: Student | Teacher, facts: Facts
    ) -> tuple[Network, Own | None]:
        """The network without a teacher's options, and its code if it is a user's own.

        Raises InputError.
        """
        if not isinstance(choice, OwnNetwork):
            return _without_teacher_options(choice), None
        try:
            source = self._find(_place(document, who, choice), choice.name, choice.sources)
            network = _identified(choice, source)
            question = Question(source, network, facts.channels, _sizes(facts), facts.classes)
            return network, Own(source, question, self._inspect(question))
        except InputError as error:
            key = "sources" if error.problems[0].startswith("sources: ") else "arch"
            reason = error.problems[0].removeprefix("sources: ")
            raise InputError(document.problem((who, key), reason)) from error


def _place(document: Document, who: Who, choice: OwnNetwork) -> Path | str:
    """The path of a Python file, relative to the spec or recipe that names it, or a module."""
    if not choice.place.endswith(".py"):
        return choice.place
    return path_of(document, (who, "arch"), choice.place)


def _find(place: Path | str, name: str, more: Sequence[str]) -> Source:
    if isinstance(place, Path):
        if not place.exists():
            raise InputError(
                f"{place}: no such file (of a level that was trained with it, "
                "`dsdctl store source KEY DIR` writes it back)"
            )
        return find_source(place, name, more)
    if more:
        raise InputError(f"sources: go with a FILE.py, of {place} all files are taken")
    if not all(part.isidentifier() for part in place.split(".")):
        raise InputError(f"is {place}:{name} (allowed: FILE.py:NAME or PACKAGE.MODULE:NAME)")
    return find_package(place, name)


def _identified(choice: OwnNetwork, source: Source) -> CodeNetwork:
    version = None if choice.version is None else f"{source.module} {choice.version}"
    return CodeNetwork(
        arch="own",
        name=source.name,
        code=source.digest if version is None else None,
        version=version,
        options=dict(sorted(choice.options.items())),
    )


def _sizes(facts: Facts) -> tuple[tuple[int, int], ...]:
    """The sizes (H, W) of the images in training and in measuring, each once."""
    crop = facts.size.test_crop if facts.size else None
    sides = [(facts.height, facts.width), *([(crop, crop)] if crop else [])]
    return tuple(dict.fromkeys(sides))


_BUILT_IN: tuple[type[Network], ...] = get_args(AnyBuiltIn)


def _without_teacher_options(network: Student | Teacher) -> Network:
    """The architecture alone."""
    kind = next(kind for kind in _BUILT_IN if isinstance(network, kind))
    if type(network) is kind:
        return network
    return kind(**{name: getattr(network, name) for name in kind.model_fields})
