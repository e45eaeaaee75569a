"""What happens in a run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dsdctl.cost.throughput import rate_line
from dsdctl.plan.trajectory import Trajectory
from dsdctl.results import AGAINST_DIVERGENCE, FinishedLevel
from dsdctl.worker.tasks import TableTask, Task


@dataclass(frozen=True)
class Event:
    """Something that happened to a trajectory. A level is `restored` when it was trained again for
    its dropped weights, `found` when another process has finished it; `busy` and `damaged` say what
    was met with; what is `lost` is run again."""

    kind: Literal["started", "finished", "restored", "found", "failed", "busy", "damaged", "lost"]
    trajectory: Trajectory
    task: Task
    level: FinishedLevel | None = None
    reason: str | None = None
    trace: str | None = None


Listener = Callable[[Event], None]


def event_line(event: Event) -> str:
    """What happened, in one line."""
    name = event.trajectory.label
    match event.kind:
        case "started":
            return f"{name}: {what(event.task)}"
        case "busy":
            return f"{name}: {what(event.task)}: another process is running it, waiting"
        case "damaged":
            return f"{name}: {what(event.task)}: {event.reason}"
        case "lost":
            return f"{name}: {what(event.task)}: lost ({event.reason}), run again"
        case "failed":
            return f"{name}: FAILED: {event.reason}"
        case "restored":
            return f"{name}: {what(event.task)} trained again for its dropped weights, the same"
        case "found":
            return f"{name}: {what(event.task)} was finished by another process"
        case "finished" if event.level is None:
            return f"{name}: {what(event.task)} done"
        case "finished":
            speed = rate_line(event.trajectory, event.level)
            return f"{name}: {what(event.task)}{_result_line(event)}{speed}"


def what(task: Task) -> str:
    """A piece of work in words."""
    if isinstance(task, TableTask):
        return "cached teacher logits"
    if task.identity.iterations is not None:
        return f"state after {task.identity.iterations} batches, to rewind to"
    return f"level {task.identity.level}"


def _result_line(event: Event) -> str:
    assert event.level is not None
    result = event.level.result
    if result.kind == "diverged":
        return f" diverged in epoch {result.epoch}; try {AGAINST_DIVERGENCE}"
    of = " of noisy labels" if has_noise(event.trajectory) else ""
    return (
        f", sparsity {100 * result.sparsity:.2f} %, test {100 * result.test_accuracy:.2f} %, "
        f"train {100 * result.train_accuracy:.2f} %{of}, "
        f"entropy {result.entropy_bits:.3f} bits, {event.level.environment.wall_seconds:.1f} s"
    )


def has_noise(trajectory: Trajectory) -> bool:
    """Whether some of the labels that it is trained on, and its training accuracy, are wrong."""
    return trajectory.setup.images.flip_rate.rate > 0
