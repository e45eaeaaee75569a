"""What a bench measures, as `bench --json` prints it."""

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict, Field

from dsdctl.spec.fields import Model, Precision

CaseName = Literal[
    "student", "student-adamw", "student-distilled", "teacher", "measure", "digits-level"
]


class Spread(Model):
    """Median, lowest and highest of the repeats."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median=statistics.median(values), min=min(values), max=max(values))

    @classmethod
    def of_ratios(cls, ours: Sequence[float], theirs: Sequence[float]) -> "Spread":
        """Of pairs that were measured one after the other."""
        return cls.of([one / other for one, other in zip(ours, theirs, strict=True)])


class Ceilings(Model):
    """What the machine itself reaches in the same run, all cores. One multiply-add is 2 FLOPs."""

    matmul_flops_per_second: dict[Precision, float]
    copy_bytes_per_second: float = Field(description="bytes read and written")

    def or_higher(self, other: "Ceilings") -> "Ceilings":
        """The higher of two measurements of the same machine, each."""
        products = {
            name: max(rate, other.matmul_flops_per_second[name])
            for name, rate in self.matmul_flops_per_second.items()
        }
        copied = max(self.copy_bytes_per_second, other.copy_bytes_per_second)
        return Ceilings(matmul_flops_per_second=products, copy_bytes_per_second=copied)


class CaseResult(Model):
    """Rates of one case. The plain loop is always fp32; `ratio` compares with that."""

    name: CaseName
    precision: Precision
    images_per_second: Spread
    plain_images_per_second: Spread
    plain_workers: int = Field(description="DataLoader workers, the best of 0, 2 and one a core")
    ratio: Spread = Field(description="of the pairs that were measured one after the other")
    share_of_ceiling: float = Field(description="2 FLOPs a MAC, over the matrix product's rate")
    images_per_second_without_kernels: Spread | None = Field(
        description="ours with DSDCTL_KERNELS=off; None where no compiled kernel is called anyway"
    )
    kernels_ratio: Spread | None = Field(description="with over without, of pairs, in turn")


class TableResult(Model):
    """How fast a teacher table is built, and what that means for specs/table1.yaml."""

    forwards_per_second: Spread
    table1_forwards: int
    table1_seconds: float


class BenchResult(Model):
    """Everything that one run measured."""

    model_config = ConfigDict(protected_namespaces=())

    device: str
    versions: dict[str, str]
    processes: int = Field(description="of ours at once, one thread each; the plain loop has one")
    streams: int = Field(1, description="of each of our processes on a GPU, a thread each")
    plain_threads: int
    ceilings: Ceilings
    kernels: dict[str, str] = Field(description="whether each compiled kernel is used, and why")
    cases: tuple[CaseResult, ...]
    table: TableResult | None
    seconds: float = Field(description="that the run itself took")
