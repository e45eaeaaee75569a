"""Showing a plan on a console; a long one is shortened, since --json has all of it."""

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dsdctl.cost.ledger import CountMacs
from dsdctl.data.labels import describe_noise
from dsdctl.plan.next_work import levels_to_restore, wants_level
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.rows import TrainingSetup
from dsdctl.plan.trajectory import RecipeUse, Trajectory
from dsdctl.report.networks import network_notes
from dsdctl.report.plan.costs import UNIT, costs
from dsdctl.report.plan.summary import PlanSummary, PlanTrajectory
from dsdctl.report.plan.time import too_long
from dsdctl.report.shortening import fill, indented, joined, short_variant
from dsdctl.report.status import awaited
from dsdctl.report.word_wrapped import WordWrappedTable
from dsdctl.spec.matrix import row_name, variant_name
from dsdctl.units import flops_unit, magnitude, size

ROOM_FOR_ALL = 110
"""Columns from which the trajectories are shown with all keys and full variants."""


def rich_plan(
    progress: Progress,
    summary: PlanSummary,
    count_macs: CountMacs,
    device: str,
    slots: int,
    width: int,
) -> RenderableType:
    """Recipes, trajectories and tables, the order of work, and what it all costs, for a console of
    so many columns."""
    narrow = width < ROOM_FOR_ALL
    where = f"{slots} processes on {device}" if device == "cpu" else f"{slots} at once on {device}"
    return Group(
        Text(f"plan of {summary.experiment}", style="bold"),
        *indented([*data_lines(progress), *network_notes(progress.plan)]),
        WordWrappedTable(_recipes(progress.plan, summary, narrow=narrow)),
        WordWrappedTable(_trajectories(progress.plan, summary, narrow=narrow)),
        *_shared(progress.plan),
        WordWrappedTable(_prunings(progress)),
        *([WordWrappedTable(_tables(summary))] if summary.teacher_tables else []),
        Text(f"order of work ({where})", style="bold"),
        *indented(order_of_work(progress)),
        *indented(direct_teacher_lines(progress)),
        Text(),
        Text("costs", style="bold"),
        _facts(costs(progress, summary, count_macs, device)),
        *indented([UNIT]),
        *[Text(line) for line in too_long(summary.totals.seconds_estimate, device)],
    )


def _facts(pairs: Sequence[tuple[str, str]]) -> Padding:
    """What something is called, and beside it what it is; that wraps below itself."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, words in pairs:
        table.add_row(Text(name, no_wrap=True), Text(words))
    return Padding(table, (0, 0, 0, 2))


IN_WORDS = ("role", "network", "variant", "used by", "depends on", "pruned per round", "then")
"""Columns beside the first that hold words, which stand at the left."""


def _table(title: str, *headings: str, narrow: bool = False) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0) if narrow else (0, 1),
        pad_edge=not narrow,
        title=title,
        title_justify="left",
        title_style="bold",
    )
    for number, heading in enumerate(headings):
        words = number == 0 or heading in IN_WORDS
        table.add_column(heading, justify="left" if words else "right", overflow="fold")
    return table


def _recipes(plan: Plan, summary: PlanSummary, *, narrow: bool) -> Table:
    highest = max(max(recipe.pflops_max, recipe.teacher_pflops_max) for recipe in summary.recipes)
    unit, scale = flops_unit(highest)
    table = _table(
        "recipes (one seed, alone, at most)", "recipe", "trainings", unit,
        "teacher trainings", f"teacher {unit}", narrow=narrow,
    )  # fmt: skip
    rows = []
    for row, recipe in zip(plan.rows, summary.recipes, strict=True):
        name = f"{row.experiment}: {recipe.recipe}" if len(plan.specs) > 1 else recipe.recipe
        variant = short_variant(recipe.variant) if narrow else recipe.variant
        teacher = scale * recipe.teacher_pflops_max
        trainings = str(recipe.trainings_max), magnitude(scale * recipe.pflops_max)
        of_teacher = str(recipe.teacher_trainings_max or ""), magnitude(teacher) if teacher else ""
        rows.append((row_name(name, variant), *trainings, *of_teacher))
    return fill(table, rows)


def _trajectories(plan: Plan, summary: PlanSummary, *, narrow: bool) -> Table:
    """A line for each set of trajectories that differ in nothing but their seed."""
    lines: dict[tuple[str, ...], list[PlanTrajectory]] = {}
    for entry in summary.trajectories:
        trajectory = plan.trajectories[entry.key]
        needs = entry.needs[0][:8] if entry.needs else ""
        same = entry.arch, trajectory.variant, _readers(plan, trajectory), needs
        lines.setdefault((*entry.roles, str(entry.levels), *same), []).append(entry)
    unit, scale = flops_unit(max(entry.pflops_per_training for entry in summary.trajectories))
    title, cost = f"{len(summary.trajectories)} distinct trajectories", f"{unit} per training run"
    sets = list(lines.values())
    if narrow:
        table = _table(
            title, "key", "used by", "network", "seeds", "done", cost, "depends on", narrow=True
        )
        return fill(table, [_narrow_cells(plan, entries, scale) for entries in sets])
    varied = any(trajectory.variant for trajectory in plan.trajectories.values())
    table = _table(
        title, "keys", "role", "network", *(["variant"] if varied else []), "seeds", "levels",
        "done", cost, "used by", "depends on",
    )  # fmt: skip
    return fill(table, [_wide_cells(plan, entries, scale, varied=varied) for entries in sets])


def _wide_cells(
    plan: Plan, entries: Sequence[PlanTrajectory], scale: float, *, varied: bool
) -> list[str]:
    first = entries[0]
    trajectory = plan.trajectories[first.key]
    return [
        joined([entry.key[:8] for entry in entries], " "),
        ", ".join(first.roles),
        first.arch,
        *([trajectory.variant] if varied else []),
        joined([str(entry.seed) for entry in entries]),
        str(first.levels),
        joined([str(entry.levels_done) for entry in entries]),
        f"{scale * first.pflops_per_training:.4g}",
        _readers(plan, trajectory),
        ", ".join(key[:8] for key in first.needs[:1]),
    ]


def _narrow_cells(plan: Plan, entries: Sequence[PlanTrajectory], scale: float) -> list[str]:
    """One key, of several the first; the levels of all that are done, of how many."""
    first = entries[0]
    trajectory = plan.trajectories[first.key]
    teaches = "teacher: " if "teacher" in first.roles else ""
    more = f" +{len(entries) - 1}" if len(entries) > 1 else ""
    done = sum(entry.levels_done for entry in entries)
    return [
        first.key[:8] + more,
        row_name(teaches + _readers(plan, trajectory), short_variant(trajectory.variant)),
        first.arch,
        joined([str(entry.seed) for entry in entries]),
        f"{done}/{first.levels * len(entries)}",
        f"{scale * first.pflops_per_training:.4g}",
        ", ".join(key[:8] for key in first.needs[:1]),
    ]


def _readers(plan: Plan, trajectory: Trajectory) -> str:
    """The recipes that read a trajectory; of several specs each with its own."""
    if len(plan.specs) == 1:
        return ", ".join(plan.used_by(trajectory))
    recipes: dict[str, dict[str, None]] = {}
    for use in plan.all_uses(trajectory):
        recipes.setdefault(use.experiment, {})[use.recipe] = None
    return "; ".join(f"{experiment}: {', '.join(names)}" for experiment, names in recipes.items())


def _shared(plan: Plan) -> list[Text]:
    """How many trajectories several specs read together; nothing if none do."""
    counts: Counter[tuple[str, ...]] = Counter()
    for trajectory in plan.trajectories.values():
        counts[trajectory.experiments] += 1
    lines = [f"  {', '.join(specs)}: {count}" for specs, count in counts.items() if len(specs) > 1]
    if not lines:
        return []
    heading = Text("trajectories shared by several specs", style="bold")
    return [heading, *map(Text, lines), Text()]


def _prunings(progress: Progress) -> Table:
    """Each way to prune and retrain once, and the recipes or teachers that go it."""
    table = _table("pruning and retraining", "of", "pruned per round", "then")
    rows: dict[tuple[str, str], list[str]] = {}
    for trajectory in progress.plan.trajectories.values():
        names = [_pruned_name(use) for use in trajectory.uses]
        if trajectory.students:
            names.append("teacher")
        setup = trajectory.setup
        rows.setdefault((_removed(setup), _retrained_from(setup)), []).extend(names)
    named = [(joined(list(dict.fromkeys(names))), *words) for words, names in rows.items()]
    return fill(table, named)


def _pruned_name(use: RecipeUse) -> str:
    """A recipe, with what its variant says of pruning."""
    variant = variant_name({axis: v for axis, v in use.axes if axis.startswith("pruning")})
    return row_name(use.recipe, variant)


def _removed(setup: TrainingSetup) -> str:
    """What a round removes, in words."""
    pruning = setup.pruning
    if pruning.criterion == "none":
        return "nothing (control)"
    fraction, _ = pruning.share(1)
    if pruning.sparsities is None:
        share = f"{100 * (fraction or 0):g} % of the remaining weights"
    else:
        levels = ", ".join(f"{100 * sparsity:g}" for sparsity in pruning.sparsities)
        share = f"up to {levels} %" if len(pruning.sparsities) > 1 else f"{levels}% in one shot"
    where = "in each layer" if pruning.scope == "layer" else "over all layers"
    if setup.ignored_layers:
        where += f" but {' and '.join(setup.ignored_layers)}"
    criterion = {
        "magnitude": "by magnitude",
        "random": "at random",
        "gradient": f"by |weight x gradient| on {pruning.gradient_sample} images",
        "snip": f"by SNIP of the initialization on {pruning.gradient_sample} images",
        "synflow": "by SynFlow of the initialization"
        + (f" in {pruning.iterations} iterations" if pruning.iterations else ""),
    }
    return f"{share}, {where}, {criterion[pruning.criterion]}"


def _retrained_from(setup: TrainingSetup) -> str:
    """What a level's training starts from, in words."""
    retrain = setup.pruning.retraining
    match retrain.mode:
        case "reinit":
            return "trained from a new initialization"
        case "rewind":
            batches = setup.rewind_iterations
            start = f"level 0 after {batches} batches" if batches else "the initialization"
            return f"rewound to {start}"
        case "continue":
            scaled = retrain.lr_scale not in (None, 1)
            return "fine-tuned" + (f", rate x {retrain.lr_scale:g}" if scaled else "")


def _tables(summary: PlanSummary) -> Table:
    unit, scale = flops_unit(max(entry.pflops for entry in summary.teacher_tables))
    table = _table(
        "cached teacher logits (for every view of every training image, once)", "key",
        "forwards", unit, "size", "done", "used by",
    )  # fmt: skip
    rows = [
        (
            _short(entry.key),
            f"{entry.forwards:,}",
            magnitude(scale * entry.pflops),
            size(entry.bytes),
            "yes" if entry.done else "",
            ", ".join(entry.used_by),
        )
        for entry in summary.teacher_tables
    ]
    return fill(table, rows)


def _short(key: str) -> str:
    trajectory, _, rule = key.partition("@")
    return trajectory[:8] + (f"@{rule.split('/')[0]}" if rule else "")


def data_lines(progress: Progress) -> list[str]:
    """Each data set with its label noise, and the true flip rate as far as it is known."""
    lines = []
    for trajectory in progress.plan.trajectories.values():
        images, flips = trajectory.setup.images, progress.flip_rate(trajectory)
        parts = [f"{count:,} {part}" for part, count in vars(images.sizes).items() if count]
        rate = f"{100 * flips.rate:.2f} %"
        lines.append(
            f"{images.dataset.name}: {', '.join(parts)} images of {images.facts.width} x "
            f"{images.facts.height}; label noise {describe_noise(images.noise)}: true flip rate "
            + (rate if flips.exact else f"about {rate}, measured once a level is done")
        )
    return list(dict.fromkeys(lines))


def direct_teacher_lines(progress: Progress) -> list[str]:
    """Why a teacher is called for every batch where no table of its logits is made."""
    lines = []
    for trajectory in progress.plan.trajectories.values():
        need = trajectory.teacher
        if need is not None and not need.table:
            recipes = ", ".join(progress.plan.used_by(trajectory))
            lines.append(f"{recipes}: the teacher is called for every batch ({need.table_reason})")
    return list(dict.fromkeys(lines))


def order_of_work(progress: Progress) -> list[str]:
    """What can run at once, and what waits for which teacher."""
    at_once: list[Trajectory] = []
    waiting: dict[str, list[Trajectory]] = {}
    restored: dict[str, None] = {}
    done = 0
    for trajectory in progress.plan.trajectories.values():
        again = levels_to_restore(progress, trajectory)
        if again:
            levels = ", ".join(map(str, again))
            restored[f"{trajectory.label} level{'s' * (len(again) > 1)} {levels}"] = None
        if not wants_level(progress, trajectory):
            done += 1
        elif not progress.waits_for_teacher(trajectory):
            at_once.append(trajectory)
        else:
            waiting.setdefault(awaited(trajectory), []).append(trajectory)
    lines = [f"{done} trajectories are done"] if done else []
    if restored:
        lines.append(f"first, again for their dropped weights: {joined([*restored], '; ')}")
    if at_once:
        # Several may begin with a level that they share.
        begun = {t.level_name(progress.known[t.key].next_level) for t in at_once}
        lines.append(f"at once, {len(begun)} side by side: {listed(at_once)}")
    for teaching, students in waiting.items():
        lines.append(f"after {teaching}: {listed(students)}")
    return lines or ["nothing is left to run"]


def listed(trajectories: Sequence[Trajectory]) -> str:
    """Their names, each once with all its seeds."""
    seeds: dict[str, list[str]] = {}
    for trajectory in trajectories:
        seeds.setdefault(trajectory.name, []).append(str(trajectory.seed))
    named = [
        f"{name} seed{'s' * (len(numbers) > 1)} {joined(numbers)}"
        for name, numbers in seeds.items()
    ]
    return joined(named, "; ")
