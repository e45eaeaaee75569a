"""How fast this machine is, learnt from the levels it has run and kept with the store."""

import statistics
from collections.abc import Iterable, Mapping

from dsdctl.cost import PETA, CountMacs, level_pflops_executed
from dsdctl.plan import Trajectory
from dsdctl.results import FinishedLevel
from dsdctl.store import Store

FILE = "calibration.json"


def workload(trajectory: Trajectory) -> str:
    """Name what decides the rate: network, image size, batch, precision, and how it is taught."""
    regime = trajectory.regime
    facts, training = regime.images.facts, regime.training
    network = "-".join(str(value) for value in regime.network.model_dump().values())
    taught = ""
    if trajectory.teacher is not None:
        taught = "/table" if trajectory.teacher.table else "/teacher"
    size = f"{facts.channels}x{facts.height}x{facts.width}"
    return f"{network}/{size}/{training.batch_size}/{training.precision}{taught}"


def learn(
    store: Store,
    device: str,
    finished: Iterable[tuple[Trajectory, FinishedLevel]],
    count_macs: CountMacs,
) -> None:
    """Keep the median rate, in MACs a second, of each workload among the `finished` levels."""
    rates: dict[str, list[float]] = {}
    for trajectory, level in finished:
        macs = level_pflops_executed(trajectory, count_macs) * PETA
        rate = macs / max(level.environment.wall_seconds, 1e-9)
        rates.setdefault(workload(trajectory), []).append(rate)
    if rates:
        known = store.read_json(FILE) or {}
        medians = {name: statistics.median(values) for name, values in rates.items()}
        store.write_json(FILE, {**known, device: {**known.get(device, {}), **medians}})


def seconds_per_level(
    store: Store, device: str, trajectories: Iterable[Trajectory], count_macs: CountMacs
) -> dict[str, float] | None:
    """Seconds of one level of each trajectory, or None where this store knows no rate for it.

    A workload that has not been run takes the median rate of those that have.
    """
    rates: Mapping[str, float] = (store.read_json(FILE) or {}).get(device, {})
    if not rates:
        return None
    typical = statistics.median(rates.values())
    return {
        trajectory.key: level_pflops_executed(trajectory, count_macs)
        * PETA
        / rates.get(workload(trajectory), typical)
        for trajectory in trajectories
    }
