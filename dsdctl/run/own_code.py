"""A user's own code, run in processes that end with it: networks looked at, data prepared.

Nothing here imports torch.
"""

import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeVar

from dsdctl.data.own import OwnData, prepare_own
from dsdctl.data.prepared import is_whole
from dsdctl.errors import DsdctlError, InputError
from dsdctl.own.inspection import Inspection, Question, cached, keep
from dsdctl.system.processes import become_worker, worker_process

Asked = TypeVar("Asked", Question, OwnData)


class OwnCode:
    """Runs a user's code where what it would say is not kept from before.

    `announce` is told of each source whose code is to be run, once.
    """

    def __init__(self, announce: Callable[[str], None]):
        self._announce = announce
        self._announced: set[str] = set()
        self._refused: dict[str, str] = {}

    def inspect(self, question: Question) -> Inspection:
        """What a network is. Raises InputError with a reason."""
        known = cached(question)
        if known is None:
            self.announce(question.source.shown)
            known = self._ask(question)
            keep(question, known)
        return known

    def prepare(self, data: OwnData) -> None:
        """Have the arrays of some data. Raises InputError with a reason."""
        if not is_whole(data.folder, thorough=False):
            self.announce(data.source.shown)
            refused = _in_a_process(_prepare, data)
            if refused is not None:
                raise InputError(str(refused))

    def announce(self, shown: str) -> None:
        """Say that the code of a source is run, unless that was said."""
        if shown not in self._announced:
            self._announced.add(shown)
            self._announce(shown)

    def _ask(self, question: Question) -> Inspection:
        """Each network that is refused is asked for once."""
        if question.cache_key not in self._refused:
            answer = _in_a_process(_inspect, question)
            if isinstance(answer, Inspection):
                return answer
            self._refused[question.cache_key] = str(answer)
        raise InputError(self._refused[question.cache_key])


Answer = Inspection | str | None
"""What was found, or why something cannot be used."""


def _in_a_process(answer: Callable[[Asked], Answer], asked: Asked) -> Answer:
    with worker_process(_work, answer, asked) as connection:
        try:
            found: Answer = connection.recv()
            return found
        except (EOFError, ConnectionError):
            return f"{asked.source.shown}: the process that ran {asked.source.name} died"


def _work(
    connection: Connection, parent: int, answer: Callable[[Asked], Answer], asked: Asked
) -> None:
    become_worker(parent)
    try:
        connection.send(answer(asked))
    except DsdctlError as error:
        connection.send(str(error))
    except Exception as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}")


def _inspect(question: Question) -> Answer:
    from dsdctl.worker.inspection import inspect

    return inspect(question)


def _prepare(data: OwnData) -> Answer:
    prepare_own(data)
    return None
