"""The trackers of a plan's experiments."""

import os
from collections.abc import Sequence

from dsdctl.cost.macs import MacCache
from dsdctl.errors import InputError
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.table import Report
from dsdctl.results import FinishedLevel, level_record
from dsdctl.tracking.attachments import attached
from dsdctl.tracking.messages import RunInfo
from dsdctl.tracking.mirror import Mirror
from dsdctl.tracking.mode import effective_mode
from dsdctl.tracking.trackers import Say, first_of, replay_levels


def replay(progress: Progress, reports: Sequence[Report], macs: MacCache, notify: Say) -> None:
    """Mirror to W&B whatever the store holds and the tracker has not seen.

    Raises InputError where no spec wants a tracker.
    """
    if not any(spec.experiment.tracking.wandb for spec in progress.plan.specs):
        raise InputError("--wandb: no given spec has `tracking: {wandb: ...}`")
    mirrors = ExperimentTrackers(progress, macs)
    if not mirrors.wanted:
        notify("W&B: disabled by `mode` of the spec or by $WANDB_MODE")
    replay_levels(mirrors, progress)
    mirrors.finish(reports, notify)


class ExperimentTrackers:
    """The tracker of each experiment that wants one, started with its first level."""

    def __init__(self, progress: Progress, macs: MacCache):
        self._progress = progress
        self._macs = macs
        self._open: dict[str, Mirror] = {}
        self._settings = {
            spec.experiment.experiment: wandb
            for spec in progress.plan.specs
            if (wandb := spec.experiment.tracking.wandb) is not None
            and effective_mode(wandb.mode, os.environ) != "disabled"
        }
        self._plans = {experiment: progress.plan.alone(experiment) for experiment in self._settings}

    @property
    def wanted(self) -> bool:
        """Whether anything is mirrored at all."""
        return bool(self._settings)

    def level(self, trajectory: Trajectory, level: FinishedLevel) -> None:
        """Mirror a level to the first experiment that reads it and wants a tracker."""
        experiment = first_of(self._progress.plan, trajectory, self._settings)
        if experiment is not None:
            info = _run_info(self._plans[experiment], trajectory.key, experiment)
            self._mirror(experiment).level(info, level_record(level))

    def finish(self, reports: Sequence[Report], notify: Say) -> None:
        """Send each comparison, end the mirrors and say once how that went."""
        for report in reports:
            if report.experiment in self._settings:
                networks = self._settings[report.experiment].networks
                alone = self._progress.alone(report.experiment)
                self._mirror(report.experiment).attach(
                    attached(alone, report, self._macs, networks=networks)
                )
        for line in dict.fromkeys(mirror.finish() for mirror in self._open.values()):
            notify(line)

    def _mirror(self, experiment: str) -> Mirror:
        if experiment not in self._open:
            store = self._progress.store.root
            self._open[experiment] = Mirror(self._settings[experiment], store)
        return self._open[experiment]


def _run_info(plan: Plan, key: str, experiment: str) -> RunInfo:
    """A trajectory as the experiment alone knows it, whose `plan` it is."""
    trajectory = plan.trajectories[key]
    return RunInfo(
        run_id=f"{experiment}-{trajectory.key[:12]}",
        experiment=experiment,
        name=trajectory.label,
        job_type="+".join(trajectory.roles),
        config={
            "trajectory": trajectory.key,
            "variant": plan.variant(trajectory),
            "used_by": plan.used_by(trajectory),
            **trajectory.identity.model_dump(mode="json"),
        },
    )
