"""Showing what a plan takes on several GPUs."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dsdctl.cost.cluster import ClusterPlan, OnGpus
from dsdctl.units import duration


def rich_cluster(cluster: ClusterPlan) -> RenderableType:
    """The makespan, the chain that decides it, and a line for each number of GPUs."""
    return Group(
        Text(),
        Text(f"on {cluster.gpus} GPUs (one process each, at most)", style="bold"),
        *[Text(f"  {line}") for line in _lines(cluster)],
        _by_gpus(cluster),
    )


def _lines(cluster: ClusterPlan) -> list[str]:
    if not cluster.pieces:
        return ["nothing is left to run"]
    asked = next(entry for entry in cluster.by_gpus if entry.gpus == cluster.gpus)
    longest = sum(stretch.cost for stretch in cluster.critical_path)
    chain = ", then ".join(f"{s.count} x {s.piece}" for s in cluster.critical_path)
    return [
        f"makespan            {_amount(asked.makespan, cluster)}",
        f"critical path       {_amount(longest, cluster)}: {chain}",
        f"GPU-hours           {_gpu_hours(asked, cluster)}",
        f"more do not help    from {cluster.gpus_that_help} on (within 1 % of the critical path)",
        f"unit                {cluster.basis}",
    ]


def _gpu_hours(asked: OnGpus, cluster: ClusterPlan) -> str:
    if asked.gpu_hours is None:
        return "unknown"
    working = cluster.work / 3600
    return f"{asked.gpu_hours:.3g} allocated, {working:.3g} utilized ({100 * asked.busy:.0f} %)"


def _by_gpus(cluster: ClusterPlan) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("GPUs", "makespan", "times as fast as one", "utilized", "GPU-hours allocated"):
        table.add_column(heading, justify="right")
    for entry in cluster.by_gpus if cluster.pieces else ():
        table.add_row(
            str(entry.gpus),
            _amount(entry.makespan, cluster),
            f"{entry.speedup:.2f}",
            f"{100 * entry.busy:.0f} %",
            "" if entry.gpu_hours is None else f"{entry.gpu_hours:.3g}",
        )
    return table


def _amount(cost: float, cluster: ClusterPlan) -> str:
    return duration(cost) if cluster.unit == "seconds" else f"{cost:.4g} levels"
