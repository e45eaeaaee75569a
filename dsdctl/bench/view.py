"""A bench's result as people read it."""

from rich import box
from rich.console import Console
from rich.table import Table

from dsdctl.bench.results import BenchResult, Spread


def print_bench(result: BenchResult, console: Console) -> None:
    """Print the measurements as a table, with what its columns mean below."""
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    table = Table(box=box.SIMPLE_HEAD, title=f"{result.device}; {versions}", title_justify="left")
    for heading in (
        "case", "precision", "images/s", "plain loop, fp32", "ratio", "of ceiling",
        "without kernels", "ratio",
    ):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("case", "precision") else "right")
    for case in result.cases:
        table.add_row(
            case.name,
            case.precision,
            _spread_text(case.images_per_second, 0),
            f"{_spread_text(case.plain_images_per_second, 0)}, {case.plain_workers} workers",
            _spread_text(case.ratio, 2),
            f"{100 * case.share_of_ceiling:.0f} %",
            _spread_text(case.images_per_second_without_kernels, 0),
            _spread_text(case.kernels_ratio, 2),
        )
    console.print(table)
    rates = result.ceilings.matmul_flops_per_second
    products = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    console.print(
        "Median (lowest to highest) of repeats, both sides in turn. Ours: "
        f"{_at_once(result)}; the plain loop: one process of "
        f"{result.plain_threads} threads, with 0, 2 or {result.plain_threads} DataLoader workers, "
        "whichever was fastest.\n"
        "Ceilings, the best of before and after the cases, on all cores: matrix product "
        f"{products}; copy {result.ceilings.copy_bytes_per_second / 1e9:.1f} GB/s.\n"
        f"{_kernels_line(result)}{_table_line(result)}The bench took {result.seconds:.0f} s.",
        highlight=False,
        soft_wrap=True,
    )


def _at_once(result: BenchResult) -> str:
    if result.streams > 1:
        return f"{result.streams} streams of one process at once, images of all summed"
    return f"{result.processes} processes of one thread, rates summed"


def _kernels_line(result: BenchResult) -> str:
    return "".join(f"Kernel {name}: {use}.\n" for name, use in result.kernels.items())


def _table_line(result: BenchResult) -> str:
    table = result.table
    if table is None:
        return ""
    return (
        "student-distilled looks its teacher up in a table. Building the one of specs/table1.yaml "
        f"({table.table1_forwards / 1e6:.1f} M forwards, fp32) takes "
        f"{table.table1_seconds / 60:.0f} min here, once for all levels, seeds and recipes; "
        "the plain loop calls its teacher 8.0 M times a level.\n"
    )


def _spread_text(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "-"
    return f"{spread.median:.{digits}f} ({spread.min:.{digits}f} to {spread.max:.{digits}f})"
