"""A plan as a graph for Graphviz."""

from dsdctl.report.plan.summary import PlanSummary, PlanTrajectory
from dsdctl.units import size


def graph(summary: PlanSummary) -> str:
    """The plan as a Graphviz digraph: teacher -> table -> students."""
    lines = ["digraph plan {", "  rankdir=LR;", '  node [shape=box, fontname="sans-serif"];']
    for trajectory in summary.trajectories:
        lines.append(f"  {_node(trajectory.key)} [label={_quoted(_label(trajectory))}];")
    # A teacher from a file is no trajectory.
    pairs = [(t.needs[1], t.needs[0]) for t in summary.trajectories if len(t.needs) == 2]
    teachers = dict(reversed(pairs))
    for table in summary.teacher_tables:
        label = f"cached teacher logits\n{size(table.bytes)}"
        lines.append(f"  {_node(table.key)} [shape=cylinder, label={_quoted(label)}];")
        if table.key in teachers:
            lines.append(f"  {_node(teachers[table.key])} -> {_node(table.key)};")
    for trajectory in summary.trajectories:
        for need in trajectory.needs[-1:]:
            lines.append(f"  {_node(need)} -> {_node(trajectory.key)};")
    return "\n".join([*lines, "}"])


def _label(trajectory: PlanTrajectory) -> str:
    name = ", ".join(trajectory.used_by) if "student" in trajectory.roles else "teacher"
    return f"{name}\n{trajectory.arch} seed {trajectory.seed}, {trajectory.levels} levels"


def _node(key: str) -> str:
    return _quoted(key)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
