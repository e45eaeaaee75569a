"""Showing a plan on a console; a long one is shortened, since --json has all of it."""

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dsdctl.cost.ledger import CountMacs, early_state_pflops, teacher_call_pflops
from dsdctl.cost.remaining import missing_early_states
from dsdctl.data.labels import describe_noise
from dsdctl.plan.plan import Plan
from dsdctl.plan.progress import Progress
from dsdctl.plan.rows import Regime
from dsdctl.plan.trajectory import Trajectory, Use
from dsdctl.report.plan.summary import PlanSummary, PlanTrajectory
from dsdctl.report.plan.time import time_words, too_long
from dsdctl.report.shortening import fill, indented, joined
from dsdctl.report.status import awaited
from dsdctl.report.word_wrapped import WholeWords
from dsdctl.spec.dataset import IMAGES_OF, LOADED_AS_THEY_ARE, Size
from dsdctl.spec.matrix import row_name, variant_name
from dsdctl.units import magnitude, size


def rich_plan(
    progress: Progress, summary: PlanSummary, count_macs: CountMacs, device: str, slots: int
) -> RenderableType:
    """Recipes, trajectories and tables, the order of work, and what it all costs."""
    where = f"{slots} processes on {device}" if device == "cpu" else f"{slots} at once on {device}"
    return Group(
        Text(f"plan of {summary.experiment}", style="bold"),
        *indented(data_lines(progress)),
        WholeWords(_recipes(progress.plan, summary)),
        WholeWords(_trajectories(progress.plan, summary)),
        *_shared(progress.plan),
        WholeWords(_prunings(progress)),
        *([WholeWords(_tables(summary))] if summary.teacher_tables else []),
        Text(f"order of work ({where})", style="bold"),
        *indented(order_of_work(progress)),
        *indented(direct_teacher_lines(progress)),
        Text(),
        Text("costs", style="bold"),
        *[Text(f"  {line}") for line in _cost_lines(progress, summary, count_macs, device)],
        *[Text(line) for line in too_long(summary.totals.seconds_estimate, device)],
    )


def _table(title: str, *headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _recipes(plan: Plan, summary: PlanSummary) -> Table:
    table = _table(
        "recipes (one seed, alone, at most)", "recipe", "trainings", "PFLOPs",
        "teacher trainings", "teacher PFLOPs",
    )  # fmt: skip
    rows = []
    for row, recipe in zip(plan.rows, summary.recipes, strict=True):
        name = f"{row.experiment}: {recipe.recipe}" if len(plan.specs) > 1 else recipe.recipe
        teacher = magnitude(recipe.teacher_pflops_max) if recipe.teacher_trainings_max else ""
        trainings = str(recipe.trainings_max), magnitude(recipe.pflops_max)
        of_teacher = str(recipe.teacher_trainings_max or ""), teacher
        rows.append((row_name(name, recipe.variant), *trainings, *of_teacher))
    return fill(table, rows)


def _trajectories(plan: Plan, summary: PlanSummary) -> Table:
    """A line for each set of trajectories that differ in nothing but their seed."""
    shown = [(plan.trajectories[entry.key], entry) for entry in summary.trajectories]
    varied = any(trajectory.variant for trajectory, _ in shown)
    table = _table(
        f"{len(shown)} distinct trajectories", "keys", "role", "network",
        *(["variant"] if varied else []), "seeds", "levels", "done", "PFLOPs a training",
        "read by", "waits for",
    )  # fmt: skip
    lines: dict[tuple[str, ...], list[PlanTrajectory]] = {}
    for trajectory, entry in shown:
        cells = (
            ", ".join(entry.roles),
            entry.arch,
            *([trajectory.variant] if varied else []),
            str(entry.levels),
            f"{entry.pflops_per_training:.4g}",
            _readers(plan, trajectory),
            ", ".join(key[:8] for key in entry.needs[:1]),
        )
        lines.setdefault(cells, []).append(entry)
    rows = []
    for (*names, levels, pflops, readers, teacher), entries in lines.items():
        keys = joined([entry.key[:8] for entry in entries], " ")
        seeds = joined([str(entry.seed) for entry in entries])
        done = joined([str(entry.levels_done) for entry in entries])
        rows.append((keys, *names, seeds, levels, done, pflops, readers, teacher))
    return fill(table, rows)


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
    heading = Text("trajectories that several specs read", style="bold")
    return [heading, *map(Text, lines), Text()]


def _prunings(progress: Progress) -> Table:
    """Each way to prune and retrain once, and the recipes or teachers that go it."""
    table = _table("pruning and retraining", "of", "a round removes", "retrained from")
    rows: dict[tuple[str, str], list[str]] = {}
    for trajectory in progress.plan.trajectories.values():
        names = [_pruned_name(use) for use in trajectory.uses]
        if trajectory.taught:
            names.append("teacher")
        regime = trajectory.regime
        rows.setdefault((_removed(regime), _retrained_from(regime)), []).extend(names)
    named = [(joined(list(dict.fromkeys(names))), *words) for words, names in rows.items()]
    return fill(table, named)


def _pruned_name(use: Use) -> str:
    """A recipe, with what its variant says of pruning."""
    variant = variant_name({axis: v for axis, v in use.axes if axis.startswith("pruning")})
    return row_name(use.recipe, variant)


def _removed(regime: Regime) -> str:
    """What a round removes, in words."""
    pruning = regime.pruning
    if pruning.criterion == "none":
        return "nothing (control)"
    fraction, _ = pruning.share(1)
    if pruning.sparsities is None:
        share = f"{100 * (fraction or 0):g} % of those left"
    else:
        levels = ", ".join(f"{100 * sparsity:g}" for sparsity in pruning.sparsities)
        share = f"up to {levels} %" if len(pruning.sparsities) > 1 else f"{levels} % at one shot"
    where = "in each layer" if pruning.scope == "layer" else "over all layers"
    if regime.ignored_layers:
        where += f" but {' and '.join(regime.ignored_layers)}"
    criterion = {
        "magnitude": "by magnitude",
        "random": "at random",
        "gradient": f"by |weight x gradient| on {pruning.gradient_sample} images",
    }
    return f"{share}, {where}, {criterion[pruning.criterion]}"


def _retrained_from(regime: Regime) -> str:
    """What a level's training starts from, in words."""
    retrain = regime.pruning.retraining
    match retrain.mode:
        case "reinit":
            return "a new initialisation a level"
        case "rewind":
            batches = regime.rewind_iterations
            return f"level 0 after {batches} batches" if batches else "the initialisation"
        case "continue":
            scaled = retrain.lr_scale not in (None, 1)
            return "the last weights" + (f", rate x {retrain.lr_scale:g}" if scaled else "")


def _tables(summary: PlanSummary) -> Table:
    table = _table(
        "teacher tables (logits for every view of every training image, once)", "key",
        "forwards", "PFLOPs", "size", "done", "read by",
    )  # fmt: skip
    rows = [
        (
            _short(entry.key),
            f"{entry.forwards:,}",
            magnitude(entry.pflops),
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
        images, flips = trajectory.regime.images, progress.flip_rate(trajectory)
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
        again = progress.levels_to_restore(trajectory)
        if again:
            levels = ", ".join(map(str, again))
            restored[f"{trajectory.label} level{'s' * (len(again) > 1)} {levels}"] = None
        if not progress.wants_level(trajectory):
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


def _cost_lines(
    progress: Progress, summary: PlanSummary, count_macs: CountMacs, device: str
) -> list[str]:
    totals = summary.totals
    again = totals.trainings_to_restore
    return [
        f"trainings           {totals.trainings - totals.trainings_done} to run at most, "
        f"{totals.trainings_done} done"
        + (f", of these {again} again for their dropped weights" if again else ""),
        f"PFLOPs attributed   {magnitude(totals.pflops_attributed)} (paper's convention: every row "
        "and seed as if alone)",
        f"PFLOPs to run       {magnitude(totals.pflops_to_run)} (executed: shared work once, with "
        "teacher forwards and measuring)",
        *_teacher_forward_lines(progress, summary, count_macs),
        *_early_state_lines(progress, count_macs),
        f"disk                {size(totals.disk_bytes)} to be written",
        *_prepared_lines(progress),
        f"time                {time_words(progress, totals.seconds_estimate, device)}",
        "One FLOP is one multiply-accumulate; a training is 3 x forward MACs (fvcore, train mode) "
        "x images x epochs.",
    ]


def _prepared_lines(progress: Progress) -> list[str]:
    """What the images take that are decoded or unpacked once for all runs."""
    prepared: dict[tuple[str, str | None, Size | None], int] = {}
    for trajectory in progress.plan.trajectories.values():
        images = trajectory.regime.images
        facts, name = images.facts, images.dataset.name
        if name not in LOADED_AS_THEY_ARE:
            pixels = facts.height * facts.width * facts.channels
            count = facts.train_images + (facts.test_images or 0)
            prepared[IMAGES_OF.get(name, name), facts.content, facts.size] = count * pixels
    total = sum(prepared.values())
    return [f"prepared images     {size(total)} beside the data, made once"] if total else []


def _early_state_lines(progress: Progress, count_macs: CountMacs) -> list[str]:
    """What it takes to compute the states that levels rewind to; no part of a row's cost."""
    states = [rewinding[0] for rewinding in missing_early_states(progress).values()]
    if not states:
        return []
    pflops = sum(early_state_pflops(trajectory, count_macs) for trajectory in states)
    return [
        f"states to rewind to {len(states)}, level 0's first batches run once more: "
        f"{magnitude(pflops)} PFLOPs"
    ]


def _teacher_forward_lines(
    progress: Progress, summary: PlanSummary, count_macs: CountMacs
) -> list[str]:
    """The honest extra cost that the paper's convention leaves out, and what tables save of it."""
    called, direct = 0.0, 0.0
    for trajectory in progress.plan.trajectories.values():
        need = trajectory.teacher
        if need is None:
            continue
        cost = trajectory.levels * teacher_call_pflops(trajectory.regime, count_macs(need.regime))
        called += cost
        direct += 0.0 if need.table else cost
    if not called:
        return []
    tabulated = sum(table.pflops for table in summary.teacher_tables)
    return [
        f"teacher forwards    {magnitude(direct + tabulated)} PFLOPs, not counted by the paper's "
        f"convention; {magnitude(called)} if the teacher were called for every batch"
    ]
