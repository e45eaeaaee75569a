"""What a plan costs, in words."""

from dsdctl.cost.ledger import CountMacs, rewind_checkpoint_pflops, teacher_call_pflops
from dsdctl.cost.remaining import missing_rewind_checkpoints
from dsdctl.plan.progress import Progress
from dsdctl.report.plan.summary import PlanSummary
from dsdctl.report.plan.time import time_words
from dsdctl.spec.catalog import CATALOG, images_record
from dsdctl.spec.views import Size
from dsdctl.units import flops, size

UNIT = (
    "One FLOP is one multiply-accumulate; a training run is 3 x forward MACs (fvcore, train mode) "
    "x images x epochs."
)


def costs(
    progress: Progress, summary: PlanSummary, count_macs: CountMacs, device: str
) -> list[tuple[str, str]]:
    """What is to run, what it costs and how long it takes: what each is called, and what it is."""
    totals = summary.totals
    again = totals.trainings_to_restore
    return [
        (
            "training runs",
            f"{totals.trainings - totals.trainings_done} to do at most, "
            f"{totals.trainings_done} done"
            + (f", of these {again} again for their dropped weights" if again else ""),
        ),
        (
            "FLOPs attributed",
            f"{flops(totals.pflops_attributed)} (paper's convention: every row and seed as if "
            "alone)",
        ),
        (
            "FLOPs to run",
            f"{flops(totals.pflops_to_run)} (executed: shared work once, with teacher forwards "
            "and measuring)",
        ),
        *_teacher_forwards(progress, summary, count_macs),
        *_early_states(progress, count_macs),
        ("disk", f"{size(totals.disk_bytes)} to be written"),
        *_prepared(progress),
        ("time", time_words(progress, totals.seconds_estimate, device)),
    ]


def _prepared(progress: Progress) -> list[tuple[str, str]]:
    """What the images take that are decoded or unpacked once for all runs."""
    prepared: dict[tuple[str, str | None, Size | None], int] = {}
    for trajectory in progress.plan.trajectories.values():
        images = trajectory.setup.images
        facts, name = images.facts, images.dataset.name
        if CATALOG[name].prepared:
            pixels = facts.height * facts.width * facts.channels
            count = facts.train_images + (facts.test_images or 0)
            prepared[images_record(name)[0], facts.content, facts.size] = count * pixels
    total = sum(prepared.values())
    return [("prepared images", f"{size(total)} beside the data, made once")] if total else []


def _early_states(progress: Progress, count_macs: CountMacs) -> list[tuple[str, str]]:
    """What it takes to compute the states that levels rewind to; no part of a row's cost."""
    states = [rewinding[0] for rewinding in missing_rewind_checkpoints(progress).values()]
    if not states:
        return []
    pflops = sum(rewind_checkpoint_pflops(trajectory, count_macs) for trajectory in states)
    count = f"{len(states)}, level 0's first batches run once more: {flops(pflops)}"
    return [("rewind checkpoints", count)]


def _teacher_forwards(
    progress: Progress, summary: PlanSummary, count_macs: CountMacs
) -> list[tuple[str, str]]:
    """The honest extra cost that the paper's convention leaves out, and what tables save of it."""
    called, direct = 0.0, 0.0
    for trajectory in progress.plan.trajectories.values():
        need = trajectory.teacher
        if need is None:
            continue
        cost = trajectory.levels * teacher_call_pflops(trajectory.setup, count_macs(need.setup))
        called += cost
        direct += 0.0 if need.table else cost
    if not called:
        return []
    tabulated = sum(table.pflops for table in summary.teacher_tables)
    return [
        (
            "teacher forwards",
            f"{flops(direct + tabulated)}, not counted by the paper's convention; {flops(called)} "
            "if the teacher were called for every batch",
        )
    ]
