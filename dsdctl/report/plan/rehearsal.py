"""What a rehearsal showed, as lines and as plain data (a contract for `rehearse --json`)."""

from collections.abc import Sequence

from pydantic import ConfigDict, Field

from dsdctl.cost.remaining import disk_bytes
from dsdctl.cost.workloads import Outcome, Workload
from dsdctl.plan.progress import Progress
from dsdctl.report.plan.tables import listed
from dsdctl.report.plan.time import time_words, too_long
from dsdctl.results import Rehearsed
from dsdctl.spec.fields import Model
from dsdctl.spec.network import network_name
from dsdctl.system.devices import Device
from dsdctl.units import size

SCHEMA = "dsdctl.run.rehearsal/1"


class RehearsedWorkload(Rehearsed):
    """A distinct training, and the trajectories by key and by name whose level 0 it is."""

    trajectories: tuple[str, ...]
    labels: tuple[str, ...]
    arch: str


class Rehearsal(Model):
    """The rehearsal of a plan, and what `plan` says with its rates."""

    model_config = ConfigDict(populate_by_name=True)

    schema_: str = Field(SCHEMA, alias="schema")
    device: Device
    workloads: tuple[RehearsedWorkload, ...]
    seconds_estimate: float | None
    disk_bytes: int


def summarize_rehearsal(
    outcomes: Sequence[Outcome], progress: Progress, device: Device, seconds: float | None
) -> Rehearsal:
    """All of a rehearsal as plain data."""
    return Rehearsal(
        device=device,
        workloads=tuple(
            RehearsedWorkload(
                trajectories=tuple(trajectory.key for trajectory in one.trajectories),
                labels=tuple(trajectory.label for trajectory in one.trajectories),
                arch=network_name(one.first.setup.network),
                **dict(rehearsed),
            )
            for one, rehearsed in outcomes
        ),
        seconds_estimate=seconds,
        disk_bytes=disk_bytes(progress),
    )


def rehearsal_lines(
    outcomes: Sequence[Outcome],
    progress: Progress,
    device: Device,
    slots: int,
    seconds: float | None,
) -> list[str]:
    """A line for each distinct training, and what `plan` says of time and disk."""
    unknown = "unknown: what diverges or fails tells no rate"
    time = unknown if seconds is None else time_words(progress, seconds, device)
    processes = f"{slots} process{'es' * (slots != 1)}"
    return [
        *(_workload_line(one, rehearsed) for one, rehearsed in outcomes),
        "",
        f"plan at these rates ({processes} on {device})",
        f"  time  {time}",
        f"  disk  {size(disk_bytes(progress))} to be written",
        *too_long(seconds, device),
    ]


def _workload_line(one: Workload, rehearsed: Rehearsed) -> str:
    name = f"{listed(one.trajectories)}: {network_name(one.first.setup.network)}"
    if rehearsed.failure is not None:
        return f"{name}: FAILED: {rehearsed.failure}"
    parts = [f"{name}, {rehearsed.batches} batches: {_loss_words(rehearsed)}"]
    if rehearsed.images_per_second is not None:
        parts.append(f"{rehearsed.images_per_second:,.0f} images/s")
    if rehearsed.peak_bytes is not None:
        where = "GPU" if rehearsed.memory == "GPU" else "resident"
        parts.append(f"{size(rehearsed.peak_bytes)} of {where} memory")
    return ", ".join(parts)


def _loss_words(rehearsed: Rehearsed) -> str:
    means = " to ".join(f"{loss:.4g}" for loss in rehearsed.losses)
    if rehearsed.diverged is not None:
        return f"DIVERGES, {rehearsed.diverged}" + (f" (mean losses {means})" if means else "")
    return f"loss finite, {means}"
