"""From spec files to rows: expands the matrix, applies recipes' overrides, checks the result.

A row is one recipe in one variant. Nothing is computed here and torch is not imported.
"""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dsdctl.data.facts import file_sha256
from dsdctl.data.own import Prepare, Unprepared, not_prepared
from dsdctl.errors import MAX_PROBLEMS, InputError, Problems
from dsdctl.keys import TeacherIdentity
from dsdctl.own.inspection import Inspect, cached
from dsdctl.plan.checks import (
    check_batches,
    check_criterion,
    check_entropy,
    check_ignored,
    check_network,
    check_rewinding,
    check_rounds,
    check_sample,
)
from dsdctl.plan.images import DataSets, Images, path_of, resolve_images
from dsdctl.plan.own import Networks, Who
from dsdctl.plan.rows import ResolvedSpec, Row, TeacherSource, TrainingSetup, WeightsFile
from dsdctl.plan.teacher_table import ENDLESS_VIEWS, table_decision
from dsdctl.spec.document import Document
from dsdctl.spec.experiment import (
    Experiment,
    LevelRule,
    Recipe,
    StopRule,
    TeacherLevel,
    TeacherWeights,
)
from dsdctl.spec.matrix import MAX_TRAININGS, variants
from dsdctl.spec.problems import validate
from dsdctl.spec.recipe_files import RecipeFile, Recipes, with_criterion
from dsdctl.spec.spec_document import read_spec


def resolve_all(
    files: Iterable[Path], inspect: Inspect = cached, prepare: Prepare = not_prepared
) -> list[ResolvedSpec]:
    """Read specs. Raises InputError with the problems of all of them together.

    `inspect` describes a user's own networks, `prepare` runs the functions of a user's own data.
    The defaults run no code of the user's: they know what was cached before.
    """
    found: list[ResolvedSpec] = []
    problems = Problems()
    for file in files:
        if problems.full:
            problems.unchecked = True
            break
        try:
            found.append(resolve(file, inspect, prepare))
        except InputError as error:
            problems.take(error)
    if problems:
        raise problems.error()
    return found


def resolve(file: Path, inspect: Inspect = cached, prepare: Prepare = not_prepared) -> ResolvedSpec:
    """Read a spec and all its recipes. Raises InputError with every problem that would be shown."""
    document = read_spec(file)
    resolver = _Resolver(document, inspect, prepare)
    for axes, variant in variants(document):
        if resolver.gave_up:
            resolver.problems.unchecked = True
            break
        resolver.add(axes, variant)
    return resolver.resolved(file)


class _Resolver:
    """Collects the rows of all variants, and the problems in them.

    A problem in one variant is often in all, so it gives up after a few variants with problems.
    """

    def __init__(self, document: Document, inspect: Inspect, prepare: Prepare):
        self.problems = Problems()
        self._document = document
        self._trainings = 0
        self._recipes = Recipes(document)
        self._lookups = _Lookups(DataSets(prepare), Networks(inspect))
        self._experiment: Experiment | None = None
        self._rows: list[Row] = []
        self._failed = 0
        self._unprepared: str | None = None

    @property
    def gave_up(self) -> bool:
        return self.problems.full or self._failed >= MAX_PROBLEMS

    def add(self, axes: Mapping[str, str], document: Document) -> None:
        """Add the rows of a variant, or its problems."""
        failed = False
        for found in self._add(axes, document):
            if self.problems.full:
                self.problems.unchecked = True
                break
            self.problems.take(found)
            failed = True
        self._failed += failed

    def _add(self, axes: Mapping[str, str], document: Document) -> Iterator[InputError]:
        """Add the rows of a variant, and yield its problems."""
        try:
            cell = _Cell(document, self._lookups)
        except Unprepared as error:
            self._note_unprepared(document, error)
            return
        except InputError as error:
            yield error
            yield from self._recipes.errors()
            return
        self._experiment = self._experiment or cell.experiment
        for name in cell.experiment.recipes:
            try:
                row = _row(axes, cell, self._recipes.read(name))
            except Unprepared as error:
                self._note_unprepared(document, error)
                continue
            except InputError as error:
                yield error
                continue
            self._rows.append(row)
            self._trainings += len(cell.experiment.seeds) * row.student.levels
        if self._trainings > MAX_TRAININGS:
            key = "pruning" if self._document.data.get("matrix") is None else "matrix"
            reason = "gives too many variants x recipes x seeds x levels"
            allowed = f"(allowed: at most {MAX_TRAININGS} trainings)"
            raise InputError(self._document.problem((key,), f"{reason} {allowed}"))

    def _note_unprepared(self, document: Document, error: Unprepared) -> None:
        """Record that a variant has no rows until its data are prepared."""
        self._experiment = self._experiment or validate(Experiment, document)
        self._unprepared = self._unprepared or error.problems[0]

    def resolved(self, file: Path) -> ResolvedSpec:
        """The spec. Raises InputError if there are problems."""
        if self.problems:
            raise self.problems.error()
        assert self._experiment is not None
        return ResolvedSpec(file, self._experiment, tuple(self._rows), self._unprepared)


@dataclass(frozen=True)
class _Lookups:
    """Looks up a spec's data sets and networks, each once."""

    datasets: DataSets
    networks: Networks


class _Cell:
    """A variant, and its settings under the overrides of each recipe, each resolved once."""

    def __init__(self, document: Document, lookups: _Lookups):
        """Raises InputError if the variant is invalid even without a recipe."""
        self.document = document
        self.experiment = validate(Experiment, document)
        self._lookups = lookups
        self._settings: dict[str, _Settings] = {}
        _check_references(document, self.experiment)
        if self.experiment.teacher is not None:
            # A teacher's settings must be valid even if no recipe distils from it.
            without_overrides = _Settings(with_criterion(document), self.experiment, lookups)
            self._settings[json.dumps({})] = without_overrides
            _ = without_overrides.teacher

    def settings(self, recipe: RecipeFile) -> "_Settings":
        """The variant's settings under a recipe's overrides. Raises InputError."""
        name = recipe.overrides_name
        if name not in self._settings:
            document, experiment = with_criterion(self.document), self.experiment
            if recipe.overrides.data:
                document = document.overlay(recipe.overrides)
                experiment = validate(Experiment, document)
            self._settings[name] = _Settings(document, experiment, self._lookups)
        return self._settings[name]


class _Settings:
    """How a row's student and its teacher are trained, and on what data."""

    def __init__(self, document: Document, experiment: Experiment, lookups: _Lookups):
        self.document = document
        self.experiment = experiment
        self._networks = lookups.networks
        images = resolve_images(document, experiment, lookups.datasets)
        self.student = _setup(document, experiment, images, "student", self._networks)

    @functools.cached_property
    def teacher(self) -> TrainingSetup:
        """How the teacher is trained, resolved only if it is needed. Raises InputError."""
        return _teacher_setup(self.document, self.experiment, self.student, self._networks)


def _check_references(cell: Document, experiment: Experiment) -> None:
    for name in experiment.reference:
        if name not in experiment.recipes:
            reason = f"no such recipe in this spec (allowed: {', '.join(experiment.recipes)})"
            raise InputError(cell.problem(("reference", name), reason))


def _row(axes: Mapping[str, str], cell: _Cell, file: RecipeFile) -> Row:
    """The row of a recipe in a variant. Raises InputError if they do not fit together."""
    recipe = file.recipe
    if recipe.distill is not None and cell.experiment.teacher is None:
        index = cell.experiment.recipes.index(recipe.recipe)
        reason = f"{recipe.recipe} distils from a teacher, but the spec has no `teacher`"
        raise InputError(cell.document.problem(("recipes", index), reason))
    settings = cell.settings(file)
    teacher_source = None if recipe.distill is None else _teacher_source(settings, file)
    stop = _stop_rule(recipe, settings.experiment, file.document)
    check_entropy(file.document, stop, settings.student)
    return Row(axes, recipe, stop, settings.student, teacher_source)


def _stop_rule(recipe: Recipe, experiment: Experiment, document: Document) -> StopRule | None:
    """The recipe's rule, with the spec's settings for what the recipe does not set."""
    if recipe.stop is None:
        return None
    given = document.data["stop"]
    settings = experiment.stop.model_dump(exclude_none=True)
    return recipe.stop.model_copy(update={k: v for k, v in settings.items() if k not in given})


def _setup(
    document: Document, experiment: Experiment, images: Images, who: Who, networks: Networks
) -> TrainingSetup:
    choice = experiment.student if who == "student" else experiment.teacher
    assert choice is not None
    network, own = networks.resolve(document, who, choice, images.facts)
    augment = experiment.dataset.augment or images.facts.augment
    training, pruning = experiment.training, experiment.pruning
    setup = TrainingSetup(network, images, augment, training, pruning, own)
    if own is None:
        check_network(document, who, network, images.facts)
    if own is None or own.inspection is not None:
        check_batches(document, setup)
        check_ignored(document, who, setup)
        check_rounds(document, who, setup)
    check_sample(document, pruning, images.sizes.train)
    check_criterion(document, who, setup)
    check_rewinding(document, who, pruning, training.epochs, setup.steps_per_epoch)
    return setup


def _teacher_source(settings: _Settings, recipe: RecipeFile) -> TeacherSource:
    document, student, setup = settings.document, settings.student, settings.teacher
    distill, teacher = recipe.recipe.distill, settings.experiment.teacher
    assert distill is not None and teacher is not None
    rule = distill.teacher
    file = None
    if isinstance(rule, TeacherWeights):
        path = path_of(recipe.document, ("distill", "teacher", "weights"), rule.weights)
        file = _weights_file(recipe.document, path, setup)
    level: LevelRule
    if isinstance(rule, TeacherLevel):
        level = rule.level
    elif rule == "best" and teacher.level is not None:
        level = teacher.level
    else:
        level = "dense" if isinstance(rule, TeacherWeights) else rule
    if isinstance(level, int) and level > setup.pruning.rounds:
        reason = f"the teacher has no level {level} (allowed: 0 to {setup.pruning.rounds})"
        raise InputError(recipe.document.problem(("distill", "teacher"), reason))
    if teacher.table == "always" and student.augment.resized_crop is not None:
        reason = f"is always, but {ENDLESS_VIEWS} (allowed: auto, never)"
        raise InputError(document.problem(("teacher", "table"), reason))
    use_table, why = table_decision(teacher.table, student)
    return TeacherSource(setup, teacher.seed, level, file, use_table, why)


def _teacher_setup(
    document: Document, experiment: Experiment, student: TrainingSetup, networks: Networks
) -> TrainingSetup:
    """The training set-up of the teacher, whose training, augmentation and pruning override the
    spec's."""
    overridden, differs = _with_augment(document, student), False
    for key, target in (
        ("training", ("training",)),
        ("augment", ("dataset", "augment")),
        ("pruning", ("pruning",)),
    ):
        if document.data["teacher"].get(key) is not None:
            own = document.moved(("teacher", key), target)
            overridden = overridden.overlay(with_criterion(own))
            differs = True
    if differs:
        experiment = validate(Experiment, overridden)
    return _setup(overridden, experiment, student.images, "teacher", networks)


def _with_augment(document: Document, student: TrainingSetup) -> Document:
    """Write out the student's augmentation, so that the teacher can override a part of it."""
    dataset = {**document.data["dataset"], "augment": student.augment.model_dump(mode="json")}
    return replace(document, data={**document.data, "dataset": dataset})


def _weights_file(document: Document, path: Path, setup: TrainingSetup) -> WeightsFile:
    try:
        content = file_sha256(path)
    except InputError as error:
        key = ("distill", "teacher", "weights")
        raise InputError(document.problem(key, str(error))) from error
    return WeightsFile(path, TeacherIdentity(weights=content, network=setup.network))
