"""How fast this machine is, as measured from levels and rehearsals, and cached in the store.

A level's rate includes loading, pruning, training and measuring. A rehearsal's is that of training
alone, and is used if no level of the workload was run.
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
"""The key in the file of the seconds until a run's first level begins, by device."""

REHEARSED = "rehearsed"
"""The key in the file of the rates of rehearsals, by device."""

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_RATES = TypeAdapter(dict[str, _Positive])
_REHEARSED = TypeAdapter(dict[str, dict[str, _Positive]])
_STARTS = TypeAdapter(dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]])

CostFunction = Callable[[str, float], float]
"""(workload, executed PFLOPs) -> the cost of a piece of work, in seconds or another unit."""


@dataclass
class RunTimings:
    """The timings of a run: its levels, and the seconds until the first one began.

    `start_seconds` stays None if the first piece of work was not a level.
    """

    levels: list[tuple[Trajectory, FinishedLevel]] = field(default_factory=list)
    start_seconds: float | None = None
    rates: dict[str, list[float]] = field(default_factory=dict)
    """MACs per second by workload, of the first `rated` levels."""
    rated: int = 0
    _began: float | None = None

    def begin(self) -> None:
        """Start the clock: work begins now."""
        self._began = time.monotonic()

    def add(self, trajectory: Trajectory, level: FinishedLevel | None) -> None:
        """Add a piece of work that has just been finished; a teacher table has no level."""
        if self._began is not None and level is not None:
            passed = time.monotonic() - self._began
            self.start_seconds = max(0.0, passed - level.environment.wall_seconds)
        self._began = None
        if level is not None:
            self.levels.append((trajectory, level))


def workload(trajectory: Trajectory, *, of_teacher: bool = False) -> str:
    """A name for what determines the rate: network, image size, batch, precision, distillation.

    With `of_teacher` it is the workload of the trajectory's teacher by itself.
    """
    need, setup = trajectory.teacher, trajectory.setup
    if of_teacher and need is not None:
        setup, need = need.setup, None
    facts, training = setup.images.facts, setup.training
    network = "-".join(str(value) for value in setup.network.model_dump().values())
    if isinstance(setup.network, CodeNetwork):
        code = setup.network.code or setup.network.version
        network = f"{setup.network.name}-{code}-{json.dumps(setup.network.options)}"
    distilled = ""
    if need is not None:
        distilled = "/table" if need.table else "/teacher"
    size = f"{facts.channels}x{facts.height}x{facts.width}"
    return f"{network}/{size}/{training.batch_size}/{training.precision}{distilled}"


def update_rates(store: Store, device: str, observed: RunTimings, count_macs: CountMacs) -> None:
    """Store the median rate of each workload in a run, in MACs per second, and its start seconds.

    Levels that diverged are left out, since they did not train to the end.
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
    """Store the rates of rehearsed workloads, in MACs per second, apart from those of levels."""
    if rates:
        known = _known(store)
        rehearsed = known.get(REHEARSED, {})
        here = {**rehearsed.get(device, {}), **rates}
        store.write_json(FILE, {**known, REHEARSED: {**rehearsed, device: here}})


def rehearsed_alone(store: Store, device: str, names: Iterable[str]) -> bool:
    """Whether the rate of any of these workloads is known only from a rehearsal."""
    known = _known(store)
    rehearsed: Mapping[str, float] = known.get(REHEARSED, {}).get(device, {})
    return any(name in rehearsed and name not in known.get(device, {}) for name in names)


def start_seconds(store: Store, device: str) -> float:
    """Seconds that a run on `device` takes until its first level begins; 0 if not known."""
    starts: Mapping[str, float] = _known(store).get(START, {})
    return starts.get(device, 0.0)


def seconds(
    store: Store, device: str, interrupted: Mapping[str, float] | None = None
) -> CostFunction | None:
    """The cost of work in seconds at the rates in this store; None if there are none.

    Rates of finished levels take precedence over those of `interrupted` ones, and these over
    rehearsals. A workload without a rate has that of one that differs only in its distillation, or
    else the median of all.
    """
    known = _known(store)
    rehearsed: Mapping[str, float] = known.get(REHEARSED, {}).get(device, {})
    rates: Mapping[str, float] = {**rehearsed, **(interrupted or {}), **known.get(device, {})}
    if not rates:
        return None
    typical = statistics.median(rates.values())
    by_training = {_without_distillation(name): rate for name, rate in rates.items()}

    def price(name: str, pflops: float) -> float:
        rate = rates.get(name) or by_training.get(_without_distillation(name), typical)
        return pflops * PETA / rate

    return price


def _known(store: Store) -> dict[str, Any]:
    """The valid entries of the file, by device or by the keys above."""
    kinds: dict[str, TypeAdapter[Any]] = {START: _STARTS, REHEARSED: _REHEARSED}
    known = {}
    for name, value in (store.read_json(FILE) or {}).items():
        with suppress(ValidationError):
            known[name] = kinds.get(name, _RATES).validate_python(value)
    return known


def _without_distillation(name: str) -> str:
    return name.removesuffix("/table").removesuffix("/teacher")


def images_per_second(trajectory: Trajectory, level: FinishedLevel) -> float | None:
    """Training images per second of a level, whose time includes loading and measuring.

    None for a level that diverged, since it did not train to the end.
    """
    if level.measured is None:
        return None
    setup = trajectory.setup
    images = setup.images.sizes.train * setup.training.epochs
    return images / max(level.environment.wall_seconds, 1e-9)


def rate_line(trajectory: Trajectory, level: FinishedLevel) -> str:
    """The speed of a level, and its peak memory if it was on a GPU, to append to a log line."""
    rate = images_per_second(trajectory, level)
    line = "" if rate is None else f", {rate:,.0f} images/s"
    peak = level.environment.gpu_peak_bytes
    return line if peak is None else f"{line}, {peak / 2**30:.2f} GiB of GPU memory"
