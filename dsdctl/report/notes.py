"""What a reader must know beside the numbers: conventions, what is left out, what is missing."""

from collections import Counter

from dsdctl.plan.stopping import describe_rule
from dsdctl.report.answer import RULE
from dsdctl.report.cells import DIVERGED, MIXED
from dsdctl.report.rows import ReportRow
from dsdctl.report.seeds import CONFIDENCE
from dsdctl.report.shortening import joined
from dsdctl.report.table import Report
from dsdctl.results import AGAINST_DIVERGENCE
from dsdctl.spec.matrix import row_name, shared_axes, variant_name

CONVENTION = (
    "PFLOPs: 3 x forward MACs (fvcore, train mode) x training images x epochs x trainings "
    "of one seed, dense at every level; one FLOP is one multiply-accumulate. Total: with the "
    "teacher's trainings; its forward passes are not counted."
)
NONZERO = (
    "Non-zero PFLOPs: the same without the teacher, each layer's MACs scaled by the share of its "
    "weights that a level has left."
)
RECOMMENDED = (
    f"Recommended: the {describe_rule(RULE)} validation accuracy of all recipes and levels, means "
    f"over the seeds; in brackets {100 * CONFIDENCE:.0f} % t intervals. Wall time: of a seed's "
    "levels in one process, beside whatever else ran."
)
DIP_RULE = (
    "Dip: the most that the mean test curve falls below both some earlier and some later level. "
    "Sparse double descent: yes when the dip is at least 3 points and its 95 % t interval over the "
    "seeds, at the same three levels, lies above 0, no when it is under 2 points, no level is "
    "missing, and the network, if pruned, no longer interpolates at the last one. The levels "
    "are chosen on these same seeds: where each scatters by 2 points a level or more, a yes may be "
    "chance."
)
REMOVABLE = (
    "Each neuron of such a layer, at the reported level, is on for all training images or off for "
    "all. A ReLU is linear there, and the authors' follow-up work removes it (Liao et al. 2024, "
    "NEPENTHE; Quétu et al. 2024, EASIER)."
)
PHASES_RULE = (
    "Phases of a dip of 2 points or more: light while within a point of the best before it, "
    "critical down to its bottom, sweet while not below that, then collapsed. A network "
    "interpolates its (noisy) labels while its training accuracy is at least 99 %."
)


def notes(report: Report) -> list[str]:
    """Sentences to be put below the comparison, in any format."""
    return [
        *table_notes(report),
        NONZERO,
        RECOMMENDED,
        *_difference_note(report),
        *_removable(report),
        DIP_RULE,
        PHASES_RULE,
    ]


def alerts(report: Report) -> list[str]:
    """Those of them without which the numbers would be taken for what they are not."""
    lines = [f"Warning: {report.warning}"] if report.warning else []
    lines += _seeds(report)[:1]
    lines += [*_environments(report), *_diverged(report), *_missing(report)]
    lines += [f"Network {text}." for text in report.networks]
    return [*lines, *_deviations(report)]


def table_notes(report: Report) -> list[str]:
    """Those of them that the columns of the paper's table need."""
    lines = [f"Warning: {report.warning}"] if report.warning else []
    lines += [*_seeds(report), _selection(report), *_unstable(report)]
    lines += [*dict.fromkeys(map(_noise, report.rows)), CONVENTION]
    lines += [*_dense_after_all(report), *_environments(report)]
    lines += [*_diverged(report), *_missing(report)]
    lines += [f"Network {text}." for text in report.networks]
    return [*lines, *_deviations(report), *_reference_notes(report)]


def _deviations(report: Report) -> list[str]:
    return [f"Not as in the paper: {text}" for text in report.deviations]


def _seeds(report: Report) -> list[str]:
    """How many seeds the numbers are over, and which variances these leave out."""
    seeds = report.rows[0].seeds if report.rows else ()
    names = ", ".join(map(str, seeds))
    if len(seeds) < 2:
        return [f"One seed ({names}): nothing is known of the spread."] if seeds else []
    shared = report.same_for_all_seeds
    lines = [f"Mean ± sample standard deviation over n = {len(seeds)} seeds ({names})."]
    if shared:
        what = _listed([f"one {thing}" for thing in shared])
        lines.append(f"All seeds share {what}; the ± leaves out how much that matters.")
    return lines


def _reference_notes(report: Report) -> list[str]:
    """What a reader must know of the published values that are shown."""
    texts = {row.recipe: row.reference.note for row in report.rows if row.reference}
    return [f"Paper, {recipe}: {text}" for recipe, text in texts.items() if text]


def trajectory_names(report: Report) -> dict[str, str]:
    """By key the recipes whose student a trajectory is, `teacher` where it teaches, and the
    variant."""
    recipes: dict[str, list[str]] = {}
    axes: dict[str | None, list[dict[str, str]]] = {}
    for row in report.rows:
        for key in dict.fromkeys(row.trajectory_keys):
            recipes.setdefault(key, []).append(row.recipe)
        for reader in dict.fromkeys((*row.trajectory_keys, *row.teacher_keys)):
            axes.setdefault(reader, []).append(row.axes)
    names = {}
    for trajectory in report.trajectories:
        teacher = ["teacher"] if "teacher" in trajectory.roles else []
        found = dict.fromkeys([*recipes.get(trajectory.key, []), *teacher])
        variant = variant_name(shared_axes(axes.get(trajectory.key, [])))
        names[trajectory.key] = row_name(", ".join(found), variant)
    return names


def _selection(report: Report) -> str:
    """Which images and which rules chose the levels; rules other than the best are named."""
    images = f"Levels were selected on the {report.selected_on} set"
    if report.selected_on == "test":
        images += ", as in the paper's protocol"
    recipes: dict[str, dict[str, None]] = {}
    for row in report.rows:
        recipes.setdefault(describe_rule(row.select), {})[row.recipe] = None
    if set(recipes) <= {describe_rule("best")}:
        return f"{images}."
    chosen = [f"the {rule} ({', '.join(names)})" for rule, names in recipes.items()]
    return f"{images}: {_listed(chosen)}."


UNSTABLE_LEVELS = 3
"""A best level whose standard deviation over the seeds is above this is no stable choice."""


def _unstable(report: Report) -> list[str]:
    """Rows whose best level is a matter of chance, and the rule that is made for this."""
    scattered = [
        f"{row.name} {row.level.std:.1f}"
        for row in report.rows
        if row.select == "best" and (row.level.std or 0) > UNSTABLE_LEVELS
    ]
    if not scattered:
        return []
    return [
        "Not a stable choice: the best level scatters over the seeds with a standard deviation "
        f"above {UNSTABLE_LEVELS} ({joined(scattered)}). A recipe with select: "
        f"{{sparsest_within: {RULE.sparsest_within}}} reports the {describe_rule(RULE)} "
        "instead."
    ]


def _noise(row: ReportRow) -> str:
    """The label noise of a row as its spec gives it, and what share of the labels it made wrong."""
    rate = row.flip_rate.mean
    known = "not measured yet" if rate is None else f"{100 * rate:.2f} %"
    return f"Label noise: {row.label_noise}; true flip rate of the training labels: {known}."


def _difference_note(report: Report) -> list[str]:
    baselines = dict.fromkeys(row.difference.baseline for row in report.rows if row.difference)
    return [
        f"Difference: test accuracy minus that of {name}, seed by seed, in points, with a "
        f"{100 * CONFIDENCE:.0f} % t interval."
        for name in baselines
    ]


def _removable(report: Report) -> list[str]:
    """Layers that the reported networks could do without, and in how many seeds."""
    found = []
    for row in report.rows:
        known = [layers for layers in row.removable_layers if layers is not None]
        counts = Counter(name for layers in known for name in layers)
        seeds = [f"{name} ({count} of {len(known)} seeds)" for name, count in counts.items()]
        found += [f"{row.name} {joined(seeds)}"] if seeds else []
    return [f"No entropy left: {'; '.join(found)}. {REMOVABLE}"] if found else []


def _dense_after_all(report: Report) -> list[str]:
    """Rows whose teacher could have been a pruned one, and was best unpruned."""
    names = [row.name for row in report.rows if row.pruned_teacher and row.teacher_level == 0]
    if not names:
        return []
    return [f"Pruned teacher = dense teacher: it was level 0 that taught {joined(names)}."]


def _environments(report: Report) -> list[str]:
    """Which environments computed which rows, where there are several."""
    rows: dict[str, dict[str, None]] = {}
    for row in report.rows:
        for environment in row.environments:
            rows.setdefault(environment, {})[row.recipe] = None
    if len(rows) < 2:
        return []
    parts = [f"{environment} ({', '.join(rows[environment])})" for environment in sorted(rows)]
    return [f"{MIXED} Mixed environments: {'; '.join(parts)}."]


def _diverged(report: Report) -> list[str]:
    names = trajectory_names(report)
    found = [
        f"{names[trajectory.key]} seed {trajectory.seed} at level {level['level']} "
        f"in epoch {level['epoch']}"
        for trajectory in report.trajectories
        for level in trajectory.levels
        if level["kind"] == "diverged"
    ]
    if not found:
        return []
    return [
        f"{DIVERGED} Diverged, and ended there: {joined(found, '; ')}. What to try: "
        f"{AGAINST_DIVERGENCE}."
    ]


def _missing(report: Report) -> list[str]:
    missing = [
        f"{row.name} {row.finished_seeds}/{len(row.seeds)} seeds ({row.stop_reason})"
        for row in report.rows
        if row.finished_seeds < len(row.seeds)
    ]
    return [f"Incomplete: {joined(missing)}."] if missing else []


def _listed(things: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(things[:-1]), things[-1]]))
