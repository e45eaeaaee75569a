"""How fast this machine is, learnt from its levels and rehearsals and kept with the store.

A level's rate is that of all it took: loading, pruning, training, measuring. A rehearsal's is that
of training alone, and counts where no level of the workload was run.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from dsdctl.cost.ledger import PETA, CountMacs, level_pflops_executed
from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import FinishedLevel
from dsdctl.spec.network import CodeNetwork
from dsdctl.store.store import Store

FILE = "calibration.json"

START = "start_seconds"
"""Under this name the file keeps how long a run takes until its first level begins."""

REHEARSED = "rehearsed"
"""Under this name the file keeps the rates of rehearsals, by device."""

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_RATES = TypeAdapter(dict[str, _Positive])
_REHEARSED = TypeAdapter(dict[str, dict[str, _Positive]])
_STARTS = TypeAdapter(dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]])

CostFunction = Callable[[str, float], float]
"""What a piece of work costs: (workload, PFLOPs as executed) -> seconds, or any other unit."""


@dataclass
class RunTimings:
    """What a run shows of a machine's speed: its levels, and how long it took to the first.

    `start_seconds` stays None where the first piece of work was none of those levels.
    """

    levels: list[tuple[Trajectory, FinishedLevel]] = field(default_factory=list)
    start_seconds: float | None = None
    rates: dict[str, list[float]] = field(default_factory=dict)
    """MACs a second by workload, of the first `rated` levels."""
    rated: int = 0
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
    need, setup = trajectory.teacher, trajectory.setup
    if of_teacher and need is not None:
        setup, need = need.setup, None
    facts, training = setup.images.facts, setup.training
    network = "-".join(str(value) for value in setup.network.model_dump().values())
    if isinstance(setup.network, CodeNetwork):
        code = setup.network.code or setup.network.version
        network = f"{setup.network.name}-{code}-{json.dumps(setup.network.options)}"
    taught = ""
    if need is not None:
        taught = "/table" if need.table else "/teacher"
    size = f"{facts.channels}x{facts.height}x{facts.width}"
    return f"{network}/{size}/{training.batch_size}/{training.precision}{taught}"


def update_rates(store: Store, device: str, observed: RunTimings, count_macs: CountMacs) -> None:
    """Keep the median rate, in MACs a second, of each workload among the observed levels, and how
    long the run took until its first level began.

    A level that diverged did not train to its end, and says nothing of a rate.
    """
    for trajectory, level in observed.levels[observed.rated :]:
        if level.measured is None:
            continue
        macs = level_pflops_executed(trajectory, count_macs) * PETA
        rate = macs / max(level.environment.wall_seconds, 1e-9)
        observed.rates.setdefault(workload(trajectory), []).append(rate)
    observed.rated = len(observed.levels)
    if observed.rates:
        known = _known(store)
        medians = {name: statistics.median(values) for name, values in observed.rates.items()}
        starts = dict(known.get(START, {}))
        if observed.start_seconds is not None:
            starts[device] = observed.start_seconds
        here = {**known.get(device, {}), **medians}
        store.write_json(FILE, {**known, START: starts, device: here})


def learn_rehearsed(store: Store, device: str, rates: Mapping[str, float]) -> None:
    """Keep the rates of rehearsed workloads, in MACs a second, apart from those of levels."""
    if rates:
        known = _known(store)
        rehearsed = known.get(REHEARSED, {})
        here = {**rehearsed.get(device, {}), **rates}
        store.write_json(FILE, {**known, REHEARSED: {**rehearsed, device: here}})


def rehearsed_alone(store: Store, device: str, names: Iterable[str]) -> bool:
    """Whether a rehearsal is all that is known of one of these workloads."""
    known = _known(store)
    rehearsed: Mapping[str, float] = known.get(REHEARSED, {}).get(device, {})
    return any(name in rehearsed and name not in known.get(device, {}) for name in names)


def start_seconds(store: Store, device: str) -> float:
    """How long a run on `device` takes until its first level begins; 0 where none was run."""
    starts: Mapping[str, float] = _known(store).get(START, {})
    return starts.get(device, 0.0)


def seconds(
    store: Store, device: str, interrupted: Mapping[str, float] | None = None
) -> CostFunction | None:
    """The seconds that work takes at the rates that were learnt; None where this store knows none.

    Rates of levels go before those of `interrupted` ones, and these before those of rehearsals.
    A workload that has not been run takes the rate of the one that differs from it only in how it
    is taught, else the median of all.
    """
    known = _known(store)
    rehearsed: Mapping[str, float] = known.get(REHEARSED, {}).get(device, {})
    rates: Mapping[str, float] = {**rehearsed, **(interrupted or {}), **known.get(device, {})}
    if not rates:
        return None
    typical = statistics.median(rates.values())
    untaught = {_untaught(name): rate for name, rate in rates.items()}

    def price(name: str, pflops: float) -> float:
        rate = rates.get(name) or untaught.get(_untaught(name), typical)
        return pflops * PETA / rate

    return price


def _known(store: Store) -> dict[str, Any]:
    """What was learnt, by device or by the names above; what is no such thing is left out."""
    kinds: dict[str, TypeAdapter[Any]] = {START: _STARTS, REHEARSED: _REHEARSED}
    known = {}
    for name, value in (store.read_json(FILE) or {}).items():
        with suppress(ValidationError):
            known[name] = kinds.get(name, _RATES).validate_python(value)
    return known


def _untaught(name: str) -> str:
    return name.removesuffix("/table").removesuffix("/teacher")


def images_per_second(trajectory: Trajectory, level: FinishedLevel) -> float | None:
    """Training images a second of a level, loading and measuring included in its time.

    None for one that diverged, which did not train to its end.
    """
    if level.measured is None:
        return None
    setup = trajectory.setup
    images = setup.images.sizes.train * setup.training.epochs
    return images / max(level.environment.wall_seconds, 1e-9)


def rate_line(trajectory: Trajectory, level: FinishedLevel) -> str:
    """The speed of a level, and its memory where it was on a GPU."""
    rate = images_per_second(trajectory, level)
    line = "" if rate is None else f", {rate:,.0f} images/s"
    peak = level.environment.gpu_peak_bytes
    return line if peak is None else f"{line}, {peak / 2**30:.2f} GiB of GPU memory"
