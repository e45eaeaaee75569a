"""What a user is told of a run: lines and bars on standard error, the trackers, the comparison."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console

from dsdctl.cli.console import log_line
from dsdctl.cli.display import Display, counted, displayed
from dsdctl.cli.live import Told
from dsdctl.cost.macs import MacCache
from dsdctl.plan.progress import Progress
from dsdctl.report.table import Report, make_report
from dsdctl.run.events import Event
from dsdctl.run.listener import Count
from dsdctl.run.log import log
from dsdctl.run.options import Finished
from dsdctl.tracking.experiments import ExperimentTrackers
from dsdctl.tracking.tensorboard import TensorBoardFiles
from dsdctl.tracking.trackers import Tracker


class ConsoleProgress:
    """Shows on a console how far something has come."""

    def __init__(self, console: Console):
        self._console = console

    def notify(self, line: str) -> None:
        """Print a line as it is."""
        log_line(self._console, line)

    def counting(self, name: str, what: str) -> AbstractContextManager[Count]:
        """Show how many of all of `what` are done."""
        return counted(self._console, name, what)


class ConsoleListener(ConsoleProgress):
    """Shows a run on a console, mirrors it to the trackers, and ends with the comparison."""

    def __init__(self, console: Console):
        super().__init__(console)
        self.reports: list[Report] = []
        self._trackers: list[Tracker] = []
        self._display: Display | None = None
        self._told: Told = lambda _key: None

    def begun(self, progress: Progress, macs: MacCache) -> None:
        """Have trackers ready, which start with their first level."""
        self._trackers = [ExperimentTrackers(progress, macs)]
        files = TensorBoardFiles(progress)
        if files.wanted:
            self._trackers.append(files)
        self._told = progress.store.told

    @contextmanager
    def working(self, levels: int) -> Iterator[None]:
        """Show levels as they are done."""
        with displayed(self._console, levels, self._told) as self._display:
            yield

    def happened(self, event: Event) -> None:
        """Show an event; trackers get each level that is finished."""
        if self._display is not None:
            self._display.show(event)
        if event.kind == "finished" and event.level is not None:
            for tracker in self._trackers:
                tracker.level(event.trajectory, event.level)

    def ended(self, finished: Finished) -> None:
        """Make the comparison; trackers get it where it is new."""
        self.reports = make_report(finished.progress, finished.macs)
        for tracker in self._trackers:
            tracker.finish(self.reports if finished.compared else [], self._say_and_log)

    def _say_and_log(self, line: str) -> None:
        log.info(line)
        self.notify(line)
