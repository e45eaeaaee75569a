"""What a level yields, as it is stored and reported. Accuracies and shares are fractions."""

from typing import Annotated, Any, Literal

from pydantic import Field

from dsdctl.spec.fields import Line, Model

Share = Annotated[float, Field(ge=0, le=1)]


class Measured(Model):
    """A level that was trained to its end and measured."""

    kind: Literal["measured"] = "measured"
    level: int = Field(ge=0)
    train_accuracy: Share = Field(description="eval mode, no augmentation, against noisy labels")
    flip_rate: Share = Field(description="share of the training labels that are not the true ones")
    fitted_noisy: Share | None = Field(
        description="of the flipped training labels, the share predicted as the noisy label"
    )
    fitted_true: Share | None = Field(
        description="of the flipped training labels, the share predicted as the true label"
    )
    train_loss: float = Field(description="mean over the last epoch's batches")
    validation_accuracy: Share
    test_accuracy: Share
    entropy_bits: float = Field(description="plain mean over the ReLU layers (eq. 1)")
    entropy_bits_per_layer: dict[Line, float]
    total_weights: int = Field(description="Conv2d and Linear weights of the dense network")
    nonzero_weights: int = Field(description="of these, those the masks keep")
    sparsity: Share
    density_per_layer: dict[Line, Share]
    learning_distance: float = Field(description="l2 from initialization, over kept weights")
    warnings: tuple[Line, ...] = ()


class Diverged(Model):
    """A level whose training loss became infinite, NaN or stayed beyond all bounds; its trajectory
    ends here."""

    kind: Literal["diverged"] = "diverged"
    level: int = Field(ge=0)
    epoch: int


AGAINST_DIVERGENCE = (
    "a warm-up (training.schedule.warmup), a lower rate (training.optimizer.lr) "
    "or clipped gradients (training.clip_norm)"
)
"""What to try where a training diverges, by the keys of a spec."""

LevelResult = Annotated[Measured | Diverged, Field(discriminator="kind")]


class Environment(Model):
    """The machine and the versions that computed a piece of work, and how long that took."""

    python: Line
    torch: Line
    dsdctl: Line
    device: Line
    threads: int
    compiled_kernels: bool = Field(
        False, description="dsdctl's own for training on one thread of a CPU were there to be used"
    )
    kernels: tuple[Line, ...] = Field(
        (), description="those that were, each with the instructions that it was compiled for"
    )
    packages: tuple[Line, ...] = Field(
        (), description="those that a user's own network imports, with their versions"
    )
    wall_seconds: float = Field(ge=0)
    gpu_peak_bytes: int | None = Field(
        None,
        description="the most GPU memory that the tensors of its process took since a level last "
        "began there; None on a CPU",
    )
    begun_on: tuple[Line, ...] = Field(
        (), description="other environments in which it was trained before an interruption"
    )


def environment_line(environment: Environment) -> str:
    """What may change a level's last digits, in words."""
    threads = f"{environment.threads} thread{'s' * (environment.threads != 1)}"
    which = f" ({', '.join(environment.kernels)})" if environment.kernels else ""
    kernels = f", compiled kernels{which}" if environment.compiled_kernels else ""
    packages = "".join(f", {package}" for package in environment.packages)
    line = f"torch {environment.torch} on {environment.device}, {threads}{kernels}{packages}"
    begun = " and ".join(environment.begun_on)
    return f"{line}, begun with {begun}" if begun else line


class FinishedLevel(Model):
    """A level as the store holds it."""

    key: str
    result: LevelResult
    environment: Environment

    @property
    def measured(self) -> Measured | None:
        return self.result if isinstance(self.result, Measured) else None


class Rehearsed(Model):
    """What a rehearsal showed. `losses` are the means of the first and the last batches, 50 or as
    many as an epoch has. What diverged or failed has no rate."""

    batches: int
    losses: tuple[float, ...] = ()
    images_per_second: float | None = None
    memory: Literal["GPU", "resident"] = "resident"
    peak_bytes: int | None = None
    diverged: str | None = None
    diverged_epoch: int | None = None
    diverged_batch: int | None = None
    failure: str | None = None


def level_record(level: FinishedLevel) -> dict[str, Any]:
    """What a level recorded, with its key and wall time, as plain data."""
    return {
        "key": level.key,
        **level.result.model_dump(mode="json"),
        "environment": environment_line(level.environment),
        "wall_seconds": level.environment.wall_seconds,
    }
