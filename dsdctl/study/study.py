"""A spec and what a store holds of it: its comparison as records, its networks and images."""

import functools
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dsdctl.cost.macs import MacCache
from dsdctl.errors import InputError, WorkError
from dsdctl.plan.plan import RowPlan, make_plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.resolve import resolve
from dsdctl.plan.trajectory import Trajectory
from dsdctl.report.axes import row_named
from dsdctl.report.table import Report, make_report
from dsdctl.results import FinishedLevel
from dsdctl.run.own import known_in
from dsdctl.store.place import DEFAULT_STORE, STORE_VARIABLE
from dsdctl.store.store import Store
from dsdctl.study.records import Records, curve_records, level_records, row_records

if TYPE_CHECKING:
    from torch.nn import Module

    from dsdctl.study.images import ImageSet

SplitName = Literal["train", "validation", "test"]


class Study:
    """One spec's results, read when they are first asked for and cached until `refresh`.

    Nothing is run or written, except that `images` prepares a data set, as a run does. Whatever a
    user can fix is raised as an error of `dsdctl.errors`.
    """

    def __init__(self, spec: Path, store: Path):
        """Raises InputError if the spec is invalid or there is no store."""
        opened = Store(store)
        self._plan = make_plan([resolve(spec, known_in(opened))])
        absence = opened.absence()
        if absence is not None:
            raise InputError(f"store: {absence}")
        self._progress = Progress(self._plan, opened)
        _warn(opened)

    def __repr__(self) -> str:
        rows = f"{len(self.recipes)} recipes, seeds {', '.join(map(str, self.seeds))}"
        return f"<Study {self.name}: {rows}; store {self._progress.store.root}>"

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._plan.specs[0].experiment.experiment

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes, by name."""
        return self._plan.specs[0].experiment.recipes

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the students."""
        return self._plan.specs[0].experiment.seeds

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of the matrix's variants; without a matrix, a single empty name."""
        return self._plan.specs[0].variants

    @functools.cached_property
    def report(self) -> Report:
        """The whole comparison, typed: what `dsdctl report --format json` prints."""
        return make_report(self._progress, MacCache(self._progress.store))[0]

    @property
    def complete(self) -> bool:
        """Whether every row has all its seeds."""
        return self.report.complete

    @property
    def rows(self) -> Records:
        """The comparison: one record per row, with means over its seeds."""
        return row_records(self.report)

    @property
    def levels(self) -> Records:
        """One record per level of each row and seed, and of its teacher."""
        return level_records(self.report)

    @property
    def curves(self) -> Records:
        """One record per level of each row's mean curve."""
        return curve_records(self.report)

    def refresh(self) -> None:
        """Read what has been finished in the meantime."""
        self._progress.refresh()
        self.__dict__.pop("report", None)
        _warn(self._progress.store)

    def network(
        self,
        recipe: str,
        seed: int | None = None,
        *,
        level: int | None = None,
        variant: str | None = None,
    ) -> "Module":
        """The network that a recipe reports for a seed (by default the first), or that of `level`.

        It is on the CPU and in eval mode; pruned weights are zero. A network of your own is built
        by running the code kept with its level. A matrix needs a `variant`. Raises InputError for
        what is not in the spec, and WorkError for what is not in the store.
        """
        from dsdctl.worker.starting_point import stored_network

        row = self._row(recipe, variant)
        trajectory = self._trajectory(row, seed)
        finished = self._level(row, trajectory, level)
        facts = trajectory.setup.images.facts
        name = f"level {finished.key}"
        store = self._progress.store
        return stored_network(store, finished.key, facts.shape, facts.classes, name)

    def images(
        self, split: SplitName, *, variant: str | None = None, seed: int | None = None
    ) -> "ImageSet":
        """The images of a split, on the CPU. Training images have the labels that are trained on.

        `seed` selects the labels if each trajectory draws its own noise. Raises InputError for what
        is not in the spec, and WorkError if the data are not available.
        """
        import torch

        from dsdctl.data.prepare import Files, fallback_folder
        from dsdctl.study.images import ImageSet
        from dsdctl.worker.inputs import load_data, measuring_normalization

        if split not in ("train", "validation", "test"):
            raise InputError(f"split: is {split} (allowed: train, validation, test)")
        trajectory = self._trajectory(self._row(self.recipes[0], variant), seed)
        identity = trajectory.identity
        files = Files(trajectory.setup.images.path, fallback_folder(self._progress.store.root))
        data = load_data(identity.images, identity.noise, files, torch.device("cpu"))
        found = {"train": data.train, "validation": data.validation, "test": data.test}[split]
        true = data.clean_labels if split == "train" else found.labels
        return ImageSet(found.labels, true, found, measuring_normalization(identity.images))

    def _row(self, recipe: str, variant: str | None) -> RowPlan:
        rows = [plan for plan in self._plan.rows if plan.row.recipe.recipe == recipe]
        if not rows:
            raise InputError(f"recipe: {recipe} is not in the spec (allowed: {self._recipes()})")
        found = row_named(rows, variant)
        if found is None:
            reason = "is missing" if variant is None else f"{variant} is not in the spec"
            allowed = "; ".join(plan.row.variant for plan in rows) or "none"
            raise InputError(f"variant: {reason} (allowed: {allowed})")
        return found

    def _recipes(self) -> str:
        return ", ".join(self.recipes)

    def _trajectory(self, row: RowPlan, seed: int | None) -> Trajectory:
        number = row.seeds[0] if seed is None else seed
        if number not in row.seeds:
            allowed = ", ".join(map(str, row.seeds))
            raise InputError(f"seed: {number} is not in the spec (allowed: {allowed})")
        return self._plan.trajectories[row.students[row.seeds.index(number)]]

    def _level(self, row: RowPlan, trajectory: Trajectory, level: int | None) -> FinishedLevel:
        """A finished level: the one asked for, or else the one that the row reports."""
        known = self._progress.known[trajectory.key]
        number = level
        if number is None:
            decision = self._progress.decision(row, trajectory.key)
            number = decision.selected(row.row.recipe.select)
            if number is None:
                raise WorkError(f"{trajectory.label}: {decision.reason}, no level is reported yet")
        if not 0 <= number < len(known.levels):
            raise WorkError(
                f"{trajectory.label}: level {number} is not in the store "
                f"({len(known.levels)} of {trajectory.levels} levels are)"
            )
        return known.levels[number]


def open_study(spec: str | Path, store: str | Path | None) -> Study:
    """Open a spec and a store, by default $DSDCTL_STORE or ./dsdctl-store. Raises InputError."""
    place = store or os.environ.get(STORE_VARIABLE) or DEFAULT_STORE
    return Study(Path(spec).expanduser(), Path(place).expanduser())


def _warn(store: Store) -> None:
    for damage in store.damage:
        warnings.warn(damage, stacklevel=4)
