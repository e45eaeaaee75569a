"""A dense training and a brief Table 1 through `dsdctl run`, and the hours of the whole one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dsdctl.ml.kernels.choice import kernel_mode

from . import images
from .options import Box, write_json
from .sizing import Rates, Size, largest, milestones, whole_seconds
from .small import dsdctl, python_path

SPEC = Path(__file__).parents[2] / "specs" / "table1.yaml"
DENSE_EPOCHS = 160

DENSE_SHARE = 0.45
"""Of the box that the dense training may take; where it needs more it is left out."""

END_SECONDS = 22.0
"""Of the box that are left for the reports once the brief Table 1 is told to stop."""

JOBS = 3
INTERRUPTED = 143
"""How `dsdctl run` ends when it was asked to stop."""

GIVE_UP_SECONDS = 10.0
"""How long a run that was told to stop may take to its checkpoints."""


class Table1:
    """The stage: its box, a folder for stores, and what each part needs of the one before."""

    def __init__(self, box: Box, folder: Path):
        self._box = box
        self._folder = folder
        self._device: str = box.options.device
        self._tiny: bool = box.options.tiny
        self._archive = Path()
        self._count = 0

    def run(self) -> None:
        """All parts; one that fails does not stop the next."""
        for part in (self._images, self._rates, self._dense, self._brief, self._whole):
            try:
                part()
            except Exception as error:
                self._box.failed(part.__name__.strip("_"), f"{type(error).__name__}: {error}")

    def _images(self) -> None:
        started, options = time.monotonic(), self._box.options
        self._archive = images.archive(options.images, options.jpegs, self._folder, tiny=self._tiny)
        with np.load(self._archive) as content:
            self._count = len(content["y_train"])
        kind = "given" if options.images or options.jpegs else "random"
        seconds = round(time.monotonic() - started, 1)
        self._box.keep(images={"kind": kind, "train": self._count, "seconds": seconds})

    # Rates

    def _rates(self) -> None:
        fast = self._box.options.out / "fast.json"
        found = json.loads(fast.read_text()) if fast.exists() else {}
        one, three = (_of_fast(found, count) for count in (1, JOBS))
        if self._tiny:
            one = three = Rates(1e3, 1e3, 1e3, 1e4)
        if one is None:
            one = three = self._measured()
        self.one, self.at_once = one, three or one
        self._box.keep(rates={"one": vars(self.one), f"{JOBS} at once": vars(self.at_once)})

    def _measured(self) -> Rates:
        """The rates of student and teacher, measured now; a distilled student's is the former."""
        # Not before: the images are decoded in processes that are forked.
        from dsdctl.bench.cases import Job

        from .servers import Server, measure, prepare

        server = Server(kernels=kernel_mode())
        try:
            rates = {}
            for case in ("student", "teacher"):
                count = (200 if case == "student" else 50) if self._device == "cuda" else 2
                job = Job.model_validate(
                    {
                        "side": "ours", "case": case, "precision": "bf16", "batches": count,
                        "device": self._device, "threads": 1, "images": None,
                        "kernels": kernel_mode(),
                    }
                )  # fmt: skip
                prepare([server], job, 60)
                rates[case] = max(measure([server], 0.5, 60))
        finally:
            server.end()
        return Rates(rates["student"], rates["student"], rates["teacher"], 3 * rates["teacher"])

    # A dense training

    def _dense(self) -> None:
        epochs = self._box.options.dense_epochs
        if epochs is None:
            epochs = 2 if self._tiny else DENSE_EPOCHS
        predicted = epochs * self._count / self.one.student + 15
        if not epochs or predicted > DENSE_SHARE * self._box.seconds:
            why = f"{epochs} epochs would take {predicted:.0f} s" if epochs else "not wanted"
            self._box.keep(dense={"left out": why})
            return
        size = Size(epochs, 0, self._count)
        spec = self._spec("dense", size, self._archive, ["vanilla"])
        started = time.monotonic()
        code = self._run(spec, DENSE_SHARE * self._box.seconds * 1.3, jobs=1)
        found: dict[str, Any] = {"epochs": epochs, "exit_code": code}
        found["seconds"] = round(time.monotonic() - started, 1)
        for level in (self._store / "levels").glob("??/*/result.json"):
            curve = (level.parent / "epochs.jsonl").read_text().splitlines()
            result = json.loads(level.read_text())
            environment = json.loads((level.parent / "environment.json").read_text())
            rows = [json.loads(line) for line in curve]
            content = {"result": result, "environment": environment, "epochs": rows}
            write_json(self._box.options.out / "dense.json", content)
            found["test_accuracy"] = result.get("test_accuracy")
            found["training_seconds"] = environment["wall_seconds"]
            rate = epochs * self._count / environment["wall_seconds"]
            found["images_per_second"] = round(rate)
        self._box.keep(dense=found)
        if code not in (0, INTERRUPTED):
            raise RuntimeError(f"dsdctl run ended with {code}, see log.txt")

    # A brief Table 1

    def _brief(self) -> None:
        seconds = self._box.left - END_SECONDS
        size = Size(3, 2, self._count) if self._tiny else None
        size = size or largest(seconds, self.one, self.at_once, self._count)
        if size is None:
            self._box.keep(brief={"left out": f"nothing fits into {seconds:.0f} s"})
            return
        few = images.first_images(self._archive, self._folder / "few.npz", size.images)
        spec = self._spec("table1", size, few, None)
        shutil.copy(spec, self._box.options.out / "table1.yaml")
        found = {**vars(size), "trainings_planned": 4 * (size.levels + 1)}
        self._box.keep(brief={**found, "state": "running"})
        started = time.monotonic()
        code = self._run(spec, self._box.left - END_SECONDS, jobs=JOBS)
        found["seconds"] = round(time.monotonic() - started, 1)
        found["exit_code"] = code
        found["state"] = {0: "complete", INTERRUPTED: "interrupted by its box"}.get(code, "failed")
        self._box.keep(brief=found)
        self._report(spec, found)
        if found["state"] == "failed":
            raise RuntimeError(f"dsdctl run ended with {code}, see log.txt")

    def _report(self, spec: Path, found: dict[str, Any]) -> None:
        out: Path = self._box.options.out
        line = ("report", spec, "--store", self._store)
        with ThreadPoolExecutor(2) as pool:
            text = pool.submit(dsdctl, self._folder, *line, COLUMNS="120")
            done = dsdctl(self._folder, *line, "--format", "json")
        (out / "report.txt").write_text(text.result().stdout + text.result().stderr)
        (out / "report.json").write_text(done.stdout)
        report = json.loads(done.stdout)
        report = report[0] if isinstance(report, list) else report
        found["trainings_done"] = sum(len(one["levels"]) for one in report["trajectories"])
        found["complete"] = report["complete"]
        self._box.keep(brief=found)

    # The whole Table 1

    def _whole(self) -> None:
        data = self._table1(self._archive)
        spec = self._folder / "whole.yaml"
        spec.write_text(yaml.safe_dump(data, sort_keys=False))
        line = ("plan", spec, "--store", self._store, "--device", self._device, "--jobs", JOBS)
        done = dsdctl(self._folder, *line, "--json")
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
        totals = json.loads(done.stdout)["totals"]
        seconds = totals["seconds_estimate"]
        found: dict[str, Any] = {
            "planned_hours": round(seconds / 3600, 2) if seconds else None,
            "hours_at_the_rates_of_fast": round(whole_seconds(self.one, self.at_once) / 3600, 2),
            "pflops_to_run": totals["pflops_to_run"],
            "trainings": totals["trainings"],
        }
        calibration = self._store / "calibration.json"
        if calibration.exists():
            self._box.results["calibration"] = json.loads(calibration.read_text())
        if found["planned_hours"]:
            found["planned_from"] = "levels as short as the brief ones, so at most"
        self._box.keep(whole=found)

    @property
    def _store(self) -> Path:
        return self._folder / "store"

    def _spec(self, name: str, size: Size, archive: Path, recipes: list[str] | None) -> Path:
        """specs/table1.yaml on an archive, in a smaller size, with one seed."""
        data = self._table1(archive)
        data.update(experiment=name, seeds=[0], title="A brief Table 1 on a GPU")
        data["deviations"] = [
            f"Only {size.images} images, {size.epochs} epochs and {size.levels} rounds of pruning, "
            "by 40 % each, one seed."
        ]
        training = data["training"]
        training["epochs"] = size.epochs
        training["schedule"].update(milestones=milestones(size.epochs))
        training["schedule"].update(warmup=min(2, size.epochs - 1))
        data["pruning"].update(fraction=0.4, levels=size.levels)
        data["recipes"] = recipes or data["recipes"]
        if recipes == ["vanilla"]:
            del data["teacher"]
        file = self._folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(data, sort_keys=False))
        return file

    def _table1(self, archive: Path) -> dict[str, Any]:
        """specs/table1.yaml on other images, with nothing to compare it with and no tracker."""
        data: dict[str, Any] = yaml.safe_load(SPEC.read_text())
        for key in ("tracking", "reference", "deviations"):
            data.pop(key, None)
        kept = {key: data["dataset"][key] for key in ("augment", "validation")}
        data["dataset"] = {"name": "npz", "file": str(archive), **kept}
        if self._tiny:
            little = {"arch": "vgg-like", "depth": 1, "width": 32, "pool": 2}
            data.update(student=dict(little), teacher=dict(little))
        return data

    def _run(self, spec: Path, seconds: float, *, jobs: int) -> int:
        """`dsdctl run`, asked to stop once `seconds` are over; its exit code."""
        line = [
            sys.executable, "-m", "dsdctl", "run", str(spec), "--store", str(self._store),
            "--device", self._device, "--jobs", str(jobs), "--grace", str(GIVE_UP_SECONDS - 2),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": python_path()}
        with subprocess.Popen(line, cwd=self._folder, env=environment) as process:
            try:
                return process.wait(max(1.0, seconds))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
            try:
                return process.wait(GIVE_UP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                return process.wait()


def _of_fast(found: dict[str, Any], at_once: int) -> Rates | None:
    """The rates in bf16 that the stage before has measured, of one where not of so many at once;
    None where those are missing."""
    rates: dict[int, dict[str, float]] = {1: {}, at_once: {}}
    for rate in found.get("rates", ()):
        usual = (rate["precision"], rate["way"], rate["kernels"]) == (
            "bf16",
            "streams",
            kernel_mode(),
        )
        if usual and not rate["plain"] and rate["at_once"] in rates:
            rates[rate["at_once"]][rate["case"]] = rate["images_per_second"]
    chosen = {**rates[1], **rates[at_once]}
    if not {"student", "teacher"} <= chosen.keys():
        return None
    student, teacher = chosen["student"], chosen["teacher"]
    distilled, forwards = chosen.get("student-distilled", student), chosen.get("table", 3 * teacher)
    return Rates(student, distilled, teacher, forwards)


def main() -> int:
    box = Box.of("table1", __doc__ or "")
    with tempfile.TemporaryDirectory() as folder:
        Table1(box, Path(folder)).run()
    return box.finish()


if __name__ == "__main__":
    sys.exit(main())
