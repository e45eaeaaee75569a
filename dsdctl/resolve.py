"""From spec files to rows: matrix cells, recipes laid over the spec, and what must fit together.

A row is one recipe in one variant. Nothing is computed here and torch is not imported.
"""

import functools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from dsdctl.checks import (
    check_batches,
    check_ignored,
    check_network,
    check_rewinding,
    check_rounds,
    check_sample,
)
from dsdctl.data_spec import Augment
from dsdctl.datasets import dataset_facts, file_sha256
from dsdctl.errors import InputError, Problems
from dsdctl.fields import NAME_PATTERN, Seed
from dsdctl.keys import TeacherIdentity
from dsdctl.loading import Document, read_document, validate
from dsdctl.matrix import variant_name, variants
from dsdctl.networks import Network
from dsdctl.pruning import Pruning
from dsdctl.resolve_images import FactsOf, Images, path_of, resolve_images
from dsdctl.shapes import ignored_layers, layer_weights
from dsdctl.spec import (
    Experiment,
    LevelRule,
    Recipe,
    StopRule,
    TeacherLevel,
    TeacherWeights,
)
from dsdctl.training import Training


@dataclass(frozen=True)
class Regime:
    """A network and how it is trained and pruned; with a seed (and a teacher) a trajectory."""

    network: Network
    images: Images
    augment: Augment
    training: Training
    pruning: Pruning

    @property
    def levels(self) -> int:
        """Trainings of a whole trajectory: the dense one and one a prune round."""
        return self.pruning.rounds + 1

    @property
    def ignored_layers(self) -> tuple[str, ...]:
        """Layers that are not pruned although others are, by their modules' names."""
        if self.pruning.criterion == "none" or not self.pruning.ignore:
            return ()
        facts = self.images.facts
        size = (facts.channels, facts.height, facts.width)
        layers = layer_weights(self.network, *size, facts.classes)
        return ignored_layers(layers, self.pruning.ignore)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch, of which the last may be smaller."""
        return math.ceil(self.images.sizes.train / self.training.batch_size)

    @property
    def rewind_iterations(self) -> int:
        """Batches of level 0 after which its state is rewound to; 0 is the initialisation."""
        retrain = self.pruning.retraining
        return (retrain.epoch or 0) * self.steps_per_epoch + (retrain.iteration or 0)

    @property
    def rewind_share(self) -> float:
        """Of level 0's training the share, in images, that comes before what is rewound to."""
        whole, rest = divmod(self.rewind_iterations, self.steps_per_epoch)
        images = self.images.sizes.train
        return (whole + rest * self.training.batch_size / images) / self.training.epochs


@dataclass(frozen=True)
class WeightsFile:
    """A teacher's weights file and what identifies it."""

    path: Path
    identity: TeacherIdentity


@dataclass(frozen=True)
class Teaching:
    """Where a row's teacher comes from: a regime with a seed and a rule, or a file."""

    regime: Regime
    seed: Seed | Literal["paired"]
    rule: LevelRule
    file: WeightsFile | None
    table: bool
    table_reason: str


@dataclass(frozen=True)
class Row:
    """One recipe in one variant: one row of the comparison.

    `axes` holds the variant's values by the dotted paths that the matrix varies.
    """

    axes: Mapping[str, str]
    recipe: Recipe
    stop: StopRule | None
    student: Regime
    teaching: Teaching | None

    @property
    def variant(self) -> str:
        return variant_name(self.axes)


@dataclass(frozen=True)
class ResolvedSpec:
    """A spec with everything that it refers to."""

    file: Path
    experiment: Experiment
    rows: tuple[Row, ...]

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.variant for row in self.rows))


def resolve_all(files: Iterable[Path]) -> list[ResolvedSpec]:
    """Read specs. Raises InputError with the problems of all of them together."""
    found: list[ResolvedSpec] = []
    problems = Problems()
    for file in files:
        if problems.full:
            problems.unchecked = True
            break
        try:
            found.append(resolve(file))
        except InputError as error:
            problems.take(error)
    if problems:
        raise problems.error()
    return found


def resolve(file: Path) -> ResolvedSpec:
    """Read a spec and all its recipes. Raises InputError with every problem at once."""
    document = read_document(file)
    problems: dict[str, None] = {}
    recipes: dict[str, Document] = {}
    rows: list[Row] = []
    experiments: list[Experiment] = []
    facts_of = functools.cache(dataset_facts)
    for axes, cell in variants(document):
        try:
            experiment = validate(Experiment, cell)
            _check_references(cell, experiment)
            _check_teacher(cell, experiment, facts_of)
        except InputError as error:
            problems.update(dict.fromkeys(error.problems))
            problems.update(dict.fromkeys(_recipe_problems(cell)))
            continue
        experiments.append(experiment)
        for name in experiment.recipes:
            try:
                if name not in recipes:
                    recipes[name] = _read_recipe(name, cell)
                rows.append(_row(axes, cell, recipes[name], facts_of))
            except InputError as error:
                problems.update(dict.fromkeys(error.problems))
    if problems:
        raise InputError(*problems)
    return ResolvedSpec(file, experiments[0], tuple(rows))


def recipe_file(name: str, spec: Path) -> Path | None:
    """Where the recipe `name` of `spec` is: beside the spec, in recipes/ there or in the folder
    above, or packaged."""
    folder = spec.parent
    # The parent of the path `.` is `.`, and that of `..` too.
    above = folder / ".." if folder.name in ("", "..") else folder.parent
    places = [folder, folder / "recipes", above / "recipes", packaged_recipes()]
    return next((p / f"{name}.yaml" for p in places if (p / f"{name}.yaml").is_file()), None)


def packaged_recipes() -> Path:
    """The folder of the recipes that come with dsdctl: in the wheel, or in a source checkout."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "recipes"


def _check_references(cell: Document, experiment: Experiment) -> None:
    for name in experiment.reference:
        if name not in experiment.recipes:
            reason = f"no such recipe in this spec (allowed: {', '.join(experiment.recipes)})"
            raise InputError(cell.problem(("reference", name), reason))


def _check_teacher(cell: Document, experiment: Experiment, facts_of: FactsOf) -> None:
    """A teacher's own settings must hold, also where no recipe asks for it."""
    if experiment.teacher is not None:
        images = resolve_images(cell, experiment, facts_of)
        _teacher_regime(_with_criterion(cell), _regime(cell, experiment, images, "student"))


def _recipe_problems(cell: Document) -> list[str]:
    """What is wrong with the recipes of a spec that is itself not valid."""
    names = cell.data.get("recipes")
    problems: list[str] = []
    for name in names if isinstance(names, list) else []:
        try:
            if isinstance(name, str) and re.match(NAME_PATTERN, name):
                _read_recipe(name, cell)
        except InputError as error:
            problems.extend(error.problems)
    return problems


def _read_recipe(name: str, cell: Document) -> Document:
    index = cell.data["recipes"].index(name)
    spec = cell.mark(()).file
    file = recipe_file(name, spec)
    if file is None:
        known = sorted({p.stem for p in packaged_recipes().glob("*.yaml")})
        reason = (
            f"no recipe {name}.yaml beside {spec.name}, in a folder recipes/ there or above, or "
            f"among the packaged ones (allowed: {', '.join(known)})"
        )
        raise InputError(cell.problem(("recipes", index), reason))
    document = read_document(file)
    recipe = validate(Recipe, document)
    if recipe.recipe != name:
        reason = f"is {recipe.recipe}, but the file is named {file.name}"
        raise InputError(document.problem(("recipe",), reason))
    return document


def _row(
    axes: Mapping[str, str], cell: Document, recipe_document: Document, facts_of: FactsOf
) -> Row:
    """Lay a recipe over a cell, validate the whole, and check what must fit together."""
    recipe = validate(Recipe, recipe_document)
    if recipe.distill is not None and cell.data.get("teacher") is None:
        index = cell.data["recipes"].index(recipe.recipe)
        reason = f"{recipe.recipe} distils from a teacher, but the spec has no `teacher`"
        raise InputError(cell.problem(("recipes", index), reason))
    overrides = recipe_document.part("training", "pruning", "teacher")
    document = _with_criterion(cell).overlay(_with_criterion(overrides))
    experiment = validate(Experiment, document)
    images = resolve_images(document, experiment, facts_of)
    student = _regime(document, experiment, images, "student")
    teaching = None
    if recipe.distill is not None:
        teaching = _teaching(document, recipe_document, recipe, student)
    return Row(axes, recipe, _stop_rule(recipe, experiment, recipe_document), student, teaching)


def _with_criterion(document: Document) -> Document:
    """Write `pruning: none` as a mapping, so that it can be laid over one."""
    if document.data.get("pruning") != "none":
        return document
    return replace(document, data={**document.data, "pruning": {"criterion": "none"}})


def _stop_rule(recipe: Recipe, experiment: Experiment, document: Document) -> StopRule | None:
    """The recipe's rule, with the spec's settings where the recipe leaves them open."""
    if recipe.stop is None:
        return None
    given = document.data["stop"]
    settings = experiment.stop.model_dump(exclude_none=True)
    return recipe.stop.model_copy(update={k: v for k, v in settings.items() if k not in given})


def _regime(
    document: Document, experiment: Experiment, images: Images, who: Literal["student", "teacher"]
) -> Regime:
    network = _bare_network(experiment.student if who == "student" else experiment.teacher)
    augment = experiment.dataset.augment or images.facts.augment
    training, pruning = experiment.training, experiment.pruning
    regime = Regime(network, images, augment, training, pruning)
    check_network(document, who, network, images.facts)
    check_batches(document, network, training, images.sizes.train)
    check_ignored(document, who, pruning, network, images.facts)
    check_rounds(document, who, pruning, network, images.facts)
    check_sample(document, pruning, images.sizes.train)
    check_rewinding(document, who, pruning, training.epochs, regime.steps_per_epoch)
    return regime


def _bare_network(network: Network | None) -> Network:
    """The architecture alone, without a teacher's options."""
    kinds: tuple[type[Network], ...] = get_args(get_args(Network)[0])
    kind = next(kind for kind in kinds if isinstance(network, kind))
    return kind(**{name: getattr(network, name) for name in kind.model_fields})


def _teaching(
    document: Document, recipe_document: Document, recipe: Recipe, student: Regime
) -> Teaching:
    assert recipe.distill is not None
    regime, seed, pinned, table = _teacher_regime(document, student)
    rule = recipe.distill.teacher
    file = None
    if isinstance(rule, TeacherWeights):
        path = path_of(recipe_document, ("distill", "teacher", "weights"), rule.weights)
        file = _weights_file(recipe_document, path, regime)
    level: LevelRule
    if isinstance(rule, TeacherLevel):
        level = rule.level
    elif rule == "best" and pinned is not None:
        level = pinned
    else:
        level = "dense" if isinstance(rule, TeacherWeights) else rule
    if isinstance(level, int) and level > regime.pruning.rounds:
        reason = f"the teacher has no level {level} (allowed: 0 to {regime.pruning.rounds})"
        raise InputError(recipe_document.problem(("distill", "teacher"), reason))
    if table == "always" and student.augment.resized_crop is not None:
        reason = f"is always, but {ENDLESS_VIEWS} (allowed: auto, never)"
        raise InputError(document.problem(("teacher", "table"), reason))
    use_table, why = _table_decision(table, student)
    return Teaching(regime, seed, level, file, use_table, why)


def _teacher_regime(
    document: Document, student: Regime
) -> tuple[Regime, Seed | Literal["paired"], int | None, Literal["auto", "always", "never"]]:
    """Lay the teacher's own training, augmentation and pruning over the spec's."""
    laid_over = _with_augment(document, student)
    for key, target in (
        ("training", ("training",)),
        ("augment", ("dataset", "augment")),
        ("pruning", ("pruning",)),
    ):
        if document.data["teacher"].get(key) is not None:
            own = document.moved(("teacher", key), target)
            laid_over = laid_over.overlay(_with_criterion(own))
    experiment = validate(Experiment, laid_over)
    teacher = experiment.teacher
    assert teacher is not None
    regime = _regime(laid_over, experiment, student.images, "teacher")
    return regime, teacher.seed, teacher.level, teacher.table


def _with_augment(document: Document, student: Regime) -> Document:
    """Write out the student's augmentation, so that a teacher's own can be laid over it."""
    dataset = {**document.data["dataset"], "augment": student.augment.model_dump(mode="json")}
    return replace(document, data={**document.data, "dataset": dataset})


def _weights_file(document: Document, path: Path, regime: Regime) -> WeightsFile:
    try:
        content = file_sha256(path)
    except InputError as error:
        key = ("distill", "teacher", "weights")
        raise InputError(document.problem(key, str(error))) from error
    return WeightsFile(path, TeacherIdentity(weights=content, network=regime.network))


MAX_TABLE_BYTES = 4 * 2**30

ENDLESS_VIEWS = "no table can hold the views of random resized crops"


def _table_decision(wish: Literal["auto", "always", "never"], student: Regime) -> tuple[bool, str]:
    """Whether the teacher's logits are tabulated; decided by the spec alone, never by a machine.

    A table costs one forward a view and image; calling the teacher costs one an epoch, level and
    image. A table must fit into memory beside everything else.
    """
    if wish != "auto":
        return wish == "always", f"teacher.table: {wish}"
    if student.augment.resized_crop is not None:
        return False, ENDLESS_VIEWS
    views = view_count(student.augment)
    calls = student.training.epochs * student.levels
    size = table_bytes(student)
    if size > MAX_TABLE_BYTES:
        return False, f"a table would take {size / 2**30:.1f} GiB"
    if views > calls:
        return False, f"{views} views an image are more than the {calls} calls it would save"
    return True, f"{views} views an image instead of {calls} calls"


def view_count(augment: Augment) -> int:
    """Distinct views of an image under flip and crop: 2 x 9 x 9 = 162 for the paper's CIFAR.

    Those of random resized crops are never counted: no table is made of them.
    """
    assert augment.resized_crop is None
    return (2 if augment.flip else 1) * (2 * augment.crop + 1) ** 2


def table_bytes(student: Regime) -> int:
    """Size of a teacher table: fp32 logits for every view of every training image."""
    images = student.images
    return 4 * images.sizes.train * view_count(student.augment) * images.facts.classes
