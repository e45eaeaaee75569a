"""Preparing the data of a plan before any of its work is started."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dsdctl.data.prepared import read_manifest
from dsdctl.errors import DsdctlError
from dsdctl.plan.trajectory import Trajectory
from dsdctl.run.listener import ProgressListener
from dsdctl.spec.catalog import CATALOG

if TYPE_CHECKING:
    from dsdctl.data.prepare import Files

LARGE = 4 * 2**30
"""Bytes from which it is said that prepared images are being checked."""


def prepare_all(
    trajectories: Iterable[Trajectory], spare: Path, listener: ProgressListener
) -> dict[str, str]:
    """Prepare the data of `trajectories`, each data set once; return what failed, by trajectory."""
    outcomes: dict[tuple[Path, str | None], str | None] = {}
    failures: dict[str, str] = {}
    for trajectory in trajectories:
        images, noise = trajectory.identity.images, trajectory.identity.noise
        if not CATALOG[trajectory.setup.images.dataset.name].prepared:
            continue
        from dsdctl.data.prepare import Files, prepared_folder

        files = Files(trajectory.setup.images.path, spare)
        what = prepared_folder(images, files), noise.labels
        if what not in outcomes:
            outcomes[what] = _prepare(trajectory, files, listener)
        failure = outcomes[what]
        if failure is not None:
            failures[trajectory.key] = failure
    return failures


def _prepare(trajectory: Trajectory, files: "Files", listener: ProgressListener) -> str | None:
    """Prepare one data set; return why that failed, in words."""
    from dsdctl.data.prepare import prepare_data, prepared_folder

    images, noise = trajectory.identity.images, trajectory.identity.noise
    name = trajectory.setup.images.dataset.name
    manifest = read_manifest(prepared_folder(images, files))
    if manifest is not None and manifest.bytes > LARGE:
        gib = manifest.bytes / 2**30
        listener.notify(f"{name}: checking {gib:.1f} GiB of prepared images")
    try:
        with listener.counting(name, "images prepared") as progress:
            prepare_data(images, noise, files, progress)
    except DsdctlError as error:
        return str(error)
    return None
