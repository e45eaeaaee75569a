"""What a tracker is given when a run ends: comparison, ledger, figures, plan, chosen networks."""

from collections.abc import Iterator

from dsdctl.cost.ledger import CountMacs
from dsdctl.plan.progress import Progress
from dsdctl.report.cells import HEADINGS, cells
from dsdctl.report.ledger import executed
from dsdctl.report.plan.summary import summarize
from dsdctl.report.rows import ReportRow
from dsdctl.report.table import Report
from dsdctl.store.store import Store
from dsdctl.tracking.messages import ChosenNetwork, ReportArtifacts, Rows

LEDGER = (
    "recipe", "variant", "trainings", "PFLOPs", "teacher PFLOPs", "PFLOPs non-zero weights",
)  # fmt: skip

EXECUTED = ("trajectory", "key", "work", "pieces", "PFLOPs")


def attached(
    progress: Progress, report: Report, count_macs: CountMacs, *, networks: bool
) -> ReportArtifacts:
    """Gather what belongs to `report`; with `networks` the files of the levels that rows report.

    `progress` is that of the report's spec alone. Imports matplotlib.
    """
    from dsdctl.report.figures.draw import figures

    return ReportArtifacts(
        experiment=report.experiment,
        tables={
            "comparison": (HEADINGS, [cells(row) for row in report.rows]),
            "ledger": (LEDGER, [_ledger_line(row) for row in report.rows]),
            "executed": (EXECUTED, _executed(progress, count_macs)),
        },
        images={figure.name: figure.png for figure in figures(report)},
        files={
            "plan.json": summarize(progress, count_macs).model_dump_json(by_alias=True, indent=2),
            "report.json": report.model_dump_json(by_alias=True, indent=2),
        },
        networks=tuple(_networks(progress.store, report)) if networks else (),
    )


def _ledger_line(row: ReportRow) -> list[float | str | None]:
    """A row's cost of one seed alone, in the paper's convention; means over the seeds."""
    return [
        row.recipe,
        row.variant,
        row.trainings.mean,
        row.pflops.mean,
        row.teacher_pflops,
        row.pflops_nonzero.mean,
    ]


def _executed(progress: Progress, count_macs: CountMacs) -> Rows:
    """What was run, by trajectory and kind of work; what several share stands with the first.

    The sum over all lines is the ledger's.
    """
    kinds: dict[tuple[str, str, str], list[float]] = {}
    for piece in executed(progress, count_macs):
        kind = piece.trajectory.label, piece.trajectory.key, piece.work
        kinds.setdefault(kind, []).append(piece.pflops)
    return [[*kind, len(pflops), sum(pflops)] for kind, pflops in kinds.items()]


def _networks(store: Store, report: Report) -> Iterator[ChosenNetwork]:
    """The level that each row reports of each seed; none whose weights were dropped."""
    levels = {trajectory.key: trajectory.levels for trajectory in report.trajectories}
    for number, row in enumerate(report.rows):
        for seed, trajectory, chosen in zip(
            row.seeds, row.trajectory_keys, row.level.values, strict=True
        ):
            if chosen is None:
                continue
            level = levels[trajectory][int(chosen)]
            if not store.levels.lacks_weights(level["key"]):
                yield ChosenNetwork(
                    name=f"{report.experiment}-{number}-{row.recipe}-seed{seed}",
                    files=tuple(map(str, store.levels.files(level["key"]))),
                    about={
                        "recipe": row.recipe,
                        "variant": row.variant,
                        "select": str(row.select),
                        "seed": seed,
                        "key": level["key"],
                        "level": level["level"],
                        "sparsity": level["sparsity"],
                        "test_accuracy": level["test_accuracy"],
                    },
                )
