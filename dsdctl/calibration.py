"""How fast this machine is, learnt from the levels it has run and kept with the store."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dsdctl.cost import PETA, CountMacs, level_pflops_executed
from dsdctl.plan import Trajectory
from dsdctl.results import FinishedLevel
from dsdctl.store import Store

FILE = "calibration.json"

START = "start_seconds"
"""Under this name the file keeps how long a run takes until its first level begins."""

Price = Callable[[str, float], float]
"""What a piece of work costs: (workload, PFLOPs as executed) -> seconds, or any other unit."""


@dataclass
class Observed:
    """What a run shows of a machine's speed: its levels, and how long it took to the first.

    `start_seconds` stays None where the first piece of work was none of those levels.
    """

    levels: list[tuple[Trajectory, FinishedLevel]] = field(default_factory=list)
    start_seconds: float | None = None
    _began: float | None = None

    def begin(self) -> None:
        """Say that work begins now."""
        self._began = time.monotonic()

    def add(self, trajectory: Trajectory, level: FinishedLevel | None) -> None:
        """Take in what has just been finished; a teacher table has no level."""
        if self._began is not None and level is not None:
            passed = time.monotonic() - self._began
            self.start_seconds = max(0.0, passed - level.environment.wall_seconds)
        self._began = None
        if level is not None:
            self.levels.append((trajectory, level))


def workload(trajectory: Trajectory, *, of_teacher: bool = False) -> str:
    """Name what decides the rate: network, image size, batch, precision, and how it is taught.

    With `of_teacher` it is that of the trajectory's teacher, alone.
    """
    need, regime = trajectory.teacher, trajectory.regime
    if of_teacher and need is not None:
        regime, need = need.regime, None
    facts, training = regime.images.facts, regime.training
    network = "-".join(str(value) for value in regime.network.model_dump().values())
    taught = ""
    if need is not None:
        taught = "/table" if need.table else "/teacher"
    size = f"{facts.channels}x{facts.height}x{facts.width}"
    return f"{network}/{size}/{training.batch_size}/{training.precision}{taught}"


def learn(store: Store, device: str, observed: Observed, count_macs: CountMacs) -> None:
    """Keep the median rate, in MACs a second, of each workload among the observed levels, and how
    long the run took until its first level began.

    A level that diverged did not train to its end, and says nothing of a rate.
    """
    rates: dict[str, list[float]] = {}
    for trajectory, level in observed.levels:
        if level.measured is None:
            continue
        macs = level_pflops_executed(trajectory, count_macs) * PETA
        rate = macs / max(level.environment.wall_seconds, 1e-9)
        rates.setdefault(workload(trajectory), []).append(rate)
    if rates:
        known = store.read_json(FILE) or {}
        medians = {name: statistics.median(values) for name, values in rates.items()}
        starts = dict(known.get(START, {}))
        if observed.start_seconds is not None:
            starts[device] = observed.start_seconds
        here = {**known.get(device, {}), **medians}
        store.write_json(FILE, {**known, START: starts, device: here})


def start_seconds(store: Store, device: str) -> float:
    """How long a run on `device` takes until its first level begins; 0 where none was run."""
    starts: Mapping[str, float] = (store.read_json(FILE) or {}).get(START, {})
    return starts.get(device, 0.0)


def seconds(store: Store, device: str) -> Price | None:
    """The seconds that work takes at the rates that were learnt; None where this store knows none.

    A workload that has not been run takes the rate of the one that differs from it only in how it
    is taught, else the median of all.
    """
    rates: Mapping[str, float] = (store.read_json(FILE) or {}).get(device, {})
    if not rates:
        return None
    typical = statistics.median(rates.values())
    untaught = {_untaught(name): rate for name, rate in rates.items()}

    def price(name: str, pflops: float) -> float:
        rate = rates.get(name) or untaught.get(_untaught(name), typical)
        return pflops * PETA / rate

    return price


def _untaught(name: str) -> str:
    return name.removesuffix("/table").removesuffix("/teacher")
