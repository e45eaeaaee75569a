"""Run specs/digits.yaml and its control over other seeds and other processors' rounding.

    python -m tests.digits.robustness --out FOLDER [--sets 10] [--jobs 2]

Each set has its own seeds, draw of the label noise, split and teacher. It is run twice: with the
numerics of this machine, and with those of another one, of which the sets take turns. A table in
Markdown ends it; what is finished in FOLDER is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from .claims import DENSE, EARLY_STOP, PRUNED, VANILLA, Report, claims

ROOT = Path(__file__).parent.parent.parent
FIRST_SET = 100
"""Sets are numbered from here: smaller numbers were looked at when the settings were chosen."""

SEEDS = 6
"""How many seeds specs/digits.yaml has."""

NUMERICS: dict[str, dict[str, str]] = {
    "kernels off": {"DSDCTL_KERNELS": "off"},
    "oneDNN AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "ATen AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "oneDNN AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "all AVX2, kernels off": {
        "DSDCTL_KERNELS": "off",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
}


def main() -> int:
    """Run all sets; 0 when at least 19 of 20 runs bear out every statement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    table = [HEADINGS, "|".join(["", *["---"] * (HEADINGS.count("|") - 1), ""])]
    good = 0
    for number in range(FIRST_SET, FIRST_SET + options.sets):
        other = list(NUMERICS)[(number - FIRST_SET) % len(NUMERICS)]
        for name, environment in (("own", {}), (other, NUMERICS[other])):
            folder = options.out / f"{number}-{name.replace(' ', '-').replace(',', '')}"
            report, control = run_set(number, folder, environment, options.jobs)
            failed = [claim for claim, holds in claims(report, control).items() if not holds]
            good += not failed
            table.append(line(number, name, report, control, failed))
            print(table[-1], flush=True)
    print(
        "\n".join(["", *table, "", f"{good} of {2 * options.sets} runs bear out every statement"])
    )
    return 0 if good >= 0.95 * 2 * options.sets else 1


def run_set(
    number: int, folder: Path, environment: dict[str, str], jobs: int
) -> tuple[Report, Report]:
    """The reports of the spec and its control with the seeds of set `number`."""
    folder.mkdir(parents=True, exist_ok=True)
    specs = [write_spec(name, number, folder) for name in ("digits", "digits-control")]
    call(folder, environment, "run", *specs, "--jobs", str(jobs))
    digits, control = (
        json.loads(call(folder, environment, "report", spec, "--format", "json")) for spec in specs
    )
    return digits, control


def write_spec(name: str, number: int, folder: Path) -> str:
    """Write specs/NAME.yaml with the seeds of set `number`, and its recipes beside it."""
    spec: dict[str, Any] = yaml.safe_load((ROOT / "specs" / f"{name}.yaml").read_text())
    spec["seeds"] = seeds_of(number, len(spec["seeds"]))
    spec["dataset"]["split_seed"] = spec["label_noise"]["seed"] = number
    if "teacher" in spec:
        spec["teacher"]["seed"] = number
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    for recipe in spec["recipes"]:
        text = (ROOT / "recipes" / f"{recipe}.yaml").read_text()
        (folder / f"{recipe}.yaml").write_text(text)
    return f"{name}.yaml"


def seeds_of(number: int, count: int) -> list[int]:
    """Seeds that no other set has; those of the spec are the first of its control's."""
    return [10_000 * (k // SEEDS) + number * SEEDS + k % SEEDS for k in range(count)]


def call(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    """What `dsdctl` prints in `folder`."""
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "dsdctl", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


HEADINGS = (
    "| set | numerics | vanilla: dip [95 %] | accuracy % at sparsity % | control's dip "
    "| early stop % at % | dense teacher: dip, % at % | pruned teacher (level): dip, % at % "
    "| not borne out |"
)


def line(number: int, name: str, report: Report, control: Report, failed: list[str]) -> str:
    """One row of the table."""
    curves = {curve["recipe"]: curve for curve in report["curves"]}
    rows = {row["recipe"]: row for row in report["rows"]}

    def at(recipe: str) -> str:
        accuracy, sparsity = (rows[recipe][key]["mean"] for key in ("test_accuracy", "sparsity"))
        return f"{100 * accuracy:.1f} at {100 * sparsity:.1f}"

    def dip(curve: Report) -> str:
        return f"{100 * curve['dip']:.1f}"

    cells = [
        str(number),
        name,
        curves[VANILLA]["reason"].replace("a dip of ", "").replace(" points", ""),
        at(VANILLA),
        dip(control["curves"][0]),
        at(EARLY_STOP),
        f"{dip(curves[DENSE])}, {at(DENSE)}",
        f"({rows[PRUNED]['teacher_level']}) {dip(curves[PRUNED])}, {at(PRUNED)}",
        "; ".join(failed) or "-",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
