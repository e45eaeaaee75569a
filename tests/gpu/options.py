"""What the command and each stage are told, and how a stage keeps what it has found."""

import argparse
import json
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

Stage = Literal["right", "fast", "table1"]

SHARES: dict[Stage, float] = {"right": 60 / 480, "fast": 150 / 480, "table1": 240 / 480}
"""Of all the minutes; the rest is for starting and ending."""


def parser(what: str) -> argparse.ArgumentParser:
    """The options that the command and all stages have."""
    made = argparse.ArgumentParser(description=what)
    made.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for results")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--tiny", action="store_true", help="a rehearsal on as little as it takes")
    images = made.add_mutually_exclusive_group()
    images.add_argument("--images", type=Path, help="an .npz of x_train, y_train, x_test, y_test")
    images.add_argument("--jpegs", type=Path, help="an .npz of JPEG files, see tests.gpu")
    made.add_argument("--dense-epochs", type=int, help="of the dense training; 0: none")
    return made


@dataclass
class Box:
    """A stage's options, its time, and the file that always holds what it knows."""

    stage: Stage
    options: argparse.Namespace
    seconds: float
    results: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, stage: Stage, what: str) -> "Box":
        made = parser(what)
        made.add_argument("--seconds", type=float, default=SHARES[stage] * 480)
        options = made.parse_args()
        options.out.mkdir(parents=True, exist_ok=True)
        signal.signal(signal.SIGTERM, _end)
        box = cls(stage, options, options.seconds)
        box.results.update(stage=stage, device=options.device, tiny=options.tiny, ok=True)
        box.results.update(finished=False, box_seconds=options.seconds)
        box.keep()
        return box

    @property
    def left(self) -> float:
        """Seconds until the box is over."""
        return self.seconds - (time.monotonic() - self.started)

    def keep(self, **results: Any) -> None:
        """Add results, and write all of them."""
        self.results.update(results, seconds=round(time.monotonic() - self.started, 1))
        write_json(self.options.out / f"{self.stage}.json", self.results)

    def failed(self, what: str, error: object) -> None:
        """Keep that something went wrong, and go on."""
        self.results["ok"] = False
        self.results.setdefault("errors", []).append(f"{what}: {error}")
        self.keep()
        print(f"{self.stage}: {what}: {error}", flush=True)

    def finish(self) -> int:
        """Say that the stage came to its end; the exit code."""
        self.keep(finished=True)
        return 0 if self.results["ok"] else 1


def _end(_number: int, _frame: object) -> None:
    """Leave no temporary folder behind."""
    raise SystemExit(1)


def write_json(file: Path, content: Any) -> None:
    """Write it whole or not at all."""
    new = file.with_name(f".{file.name}.new")
    new.write_text(json.dumps(content, indent=1, default=str))
    new.replace(file)


STAGES: tuple[Stage, ...] = get_args(Stage)
