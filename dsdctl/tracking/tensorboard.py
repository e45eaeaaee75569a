"""TensorBoard as a mirror of the store: event files on this machine, no account, no upload.

Each trajectory is a run with a step per level. The files are written here and now; what they have
is read from them, so that a second run or a replay adds only what is missing.
"""

import importlib.util
import re
from collections.abc import Iterator, Sequence

from dsdctl.errors import InputError, describe_os_error
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.formats.markdown import markdown
from dsdctl.report.table import Report
from dsdctl.results import FinishedLevel, level_record
from dsdctl.tracking.trackers import Say, first_of, replay_levels

FOLDER = "tensorboard"
"""Where in the store its files lie: a folder per experiment, in it one per run."""

INSTALL = "pip install 'dsdctl[tensorboard]'"


class TensorBoardFiles:
    """The event files of the experiments that want some, or of all of them.

    What cannot be written costs a run nothing but these files, and is said once.
    """

    def __init__(self, progress: Progress, *, all_experiments: bool = False):
        self._root = progress.store.root / FOLDER
        self._progress = progress
        self._plans = {
            spec.experiment.experiment: progress.plan.alone(spec.experiment.experiment)
            for spec in progress.plan.specs
            if all_experiments or spec.experiment.tracking.tensorboard
        }
        self._failure = "" if installed() or not self._plans else f"is not installed ({INSTALL})"
        self._written = 0

    @property
    def wanted(self) -> bool:
        """Whether anything is written at all."""
        return bool(self._plans)

    def level(self, trajectory: Trajectory, level: FinishedLevel) -> None:
        """Write a level to the first experiment that uses it and wants its files."""
        experiment = first_of(self._progress.plan, trajectory, self._plans)
        if experiment is not None:
            self._level(experiment, trajectory.key, level)

    def finish(self, reports: Sequence[Report], notify: Say) -> None:
        """Write each comparison, and say once how all that went."""
        for report in reports:
            if report.experiment in self._plans and not self._failure:
                self._page(report)
        if self._failure:
            notify(
                f"TensorBoard: {self._failure}; `dsdctl report SPEC --tensorboard` writes the rest"
            )
        elif self._written or reports:
            notify(f"TensorBoard: {self._written} new levels; `tensorboard --logdir {self._root}`")

    def _level(self, experiment: str, key: str, level: FinishedLevel) -> None:
        from dsdctl.tracking.event_file import add_scalars

        if self._failure:
            return
        trajectory = self._plans[experiment].trajectories[key]
        folder = self._root / experiment / f"{_file_name(trajectory.label)}-{key[:8]}"
        scalars = dict(_scalars(level))
        try:
            self._written += add_scalars(folder, level.result.level, scalars)
        except OSError as error:
            self._failure = describe_os_error(error) or str(error)

    def _page(self, report: Report) -> None:
        from dsdctl.report.figures.draw import figures
        from dsdctl.tracking.event_file import write_page

        images = {figure.name: figure.png for figure in figures(report)}
        try:
            write_page(self._root / report.experiment / "comparison", markdown([report]), images)
        except OSError as error:
            self._failure = describe_os_error(error) or str(error)


def replay(progress: Progress, reports: Sequence[Report], notify: Say) -> None:
    """Write whatever the store holds and the event files lack. Raises InputError without it."""
    if not installed():
        raise InputError(f"--tensorboard: TensorBoard is not installed ({INSTALL})")
    files = TensorBoardFiles(progress, all_experiments=True)
    replay_levels(files, progress)
    files.finish(reports, notify)


def installed() -> bool:
    """Whether TensorBoard is there to write its files."""
    return importlib.util.find_spec("tensorboard") is not None


def _scalars(level: FinishedLevel) -> Iterator[tuple[str, float]]:
    """The numbers that a level recorded, those by layer as `NAME/LAYER`."""
    for name, value in level_record(level).items():
        if isinstance(value, dict):
            yield from ((f"{name}/{layer}", number) for layer, number in value.items())
        elif isinstance(value, int | float) and name != "level":
            yield name, value


def _file_name(label: str) -> str:
    """A trajectory's label as a folder may be called, and a run in TensorBoard."""
    return re.sub(r"[^\w.,=+\[\]-]+", "_", label)[:150]
