"""Looking at networks of a user's own, each in a process that ends with it; imports no torch."""

import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

from dsdctl.errors import InputError
from dsdctl.own.inspection import Inspection, Question, cached, keep
from dsdctl.system.processes import (
    end_with_parent,
    print_to_stderr,
    start_worker,
    take_signals,
)


class Inspector:
    """Answers from the cache folder, or else runs the user's code, in a process of its own.

    `announce` is told of each source whose code is to be run, once.
    """

    def __init__(self, announce: Callable[[str], None]):
        self._announce = announce
        self._announced: set[str] = set()
        self._refused: dict[str, str] = {}

    def __call__(self, question: Question) -> Inspection:
        """What the network is. Raises InputError with a reason."""
        known = cached(question)
        if known is None:
            self.announce(question)
            known = self._ask(question)
            keep(question, known)
        return known

    def announce(self, question: Question) -> None:
        """Say that its code is run, unless that was said."""
        shown = question.source.shown
        if shown not in self._announced:
            self._announced.add(shown)
            self._announce(shown)

    def _ask(self, question: Question) -> Inspection:
        """Each network that is refused is asked for once."""
        if question.cache_key not in self._refused:
            answer = _in_a_process(question)
            if isinstance(answer, Inspection):
                return answer
            self._refused[question.cache_key] = answer
        raise InputError(self._refused[question.cache_key])


def _in_a_process(question: Question) -> Inspection | str:
    """What was found, or why the network cannot be used."""
    process, connection = start_worker(_work, question)
    try:
        answer: Inspection | str = connection.recv()
        return answer
    except (EOFError, ConnectionError):
        return f"{question.source.shown}: the process that built {question.network.name} died"
    finally:
        process.kill()
        process.join()
        connection.close()


def _work(connection: Connection, parent: int, question: Question) -> None:
    take_signals()
    end_with_parent(parent)
    print_to_stderr()
    try:
        from dsdctl.worker.inspection import inspect

        connection.send(inspect(question))
    except InputError as error:
        connection.send(error.problems[0])
    except Exception as error:
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}")
