"""The specs that come along: what they plan, what they share, and the smallest of them run."""

import json
from pathlib import Path

from tiny import ROOT, Dsdctl


def test_the_smoke_spec_runs_to_its_end_and_does_nothing_twice(
    dsdctl: Dsdctl, tmp_path: Path
) -> None:
    spec = ROOT / "specs" / "smoke.yaml"
    first = dsdctl("run", spec, "--jobs", 1)
    assert first.returncode == 0, first.stderr
    assert all(name in first.stdout for name in ("vanilla", "early-stop", "kd-pruned-teacher"))
    report = json.loads(dsdctl("report", spec, "--format", "json").stdout)
    assert report["complete"]
    assert [row["recipe"] for row in report["rows"]] == [
        "vanilla",
        "early-stop",
        "kd-dense-teacher",
        "kd-pruned-teacher",
    ]
    again = dsdctl("run", spec, "--jobs", 1)
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert "level" not in again.stderr
