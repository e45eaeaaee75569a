"""Results from Python: those of the report, and networks that compute what was measured."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import ROOT, TINY

import dsdctl
from dsdctl.errors import DsdctlError, InputError, WorkError
from dsdctl.study.study import Study

PAGE = (ROOT / "docs" / "python.md").read_text()


SPEC = TINY.replace("levels: 3", "levels: 1").replace(
    "kd-dense-teacher, kd-pruned-teacher, entropy-early-stop", "kd-dense-teacher"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec that was run."""
    made = tmp_path_factory.mktemp("study")
    (made / "digits.yaml").write_text(SPEC)
    run = [sys.executable, "-m", "dsdctl", "run", "digits.yaml", "--jobs", "1"]
    subprocess.run(run, cwd=made, capture_output=True, check=True)
    return made


@pytest.fixture
def study(folder: Path) -> Study:
    return dsdctl.open(folder / "digits.yaml", store=folder / "dsdctl-store")


def printed(folder: Path, *options: str) -> str:
    line = [sys.executable, "-m", "dsdctl", "report", "digits.yaml", *options]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_records_are_the_reports(study: Study, folder: Path) -> None:
    report = json.loads(printed(folder, "--format", "json"))
    assert json.loads(study.report.model_dump_json(by_alias=True)) == report
    assert study.complete
    for record, row in zip(study.rows, report["rows"], strict=True):
        for name in ("test_accuracy", "sparsity", "trainings", "pflops"):
            assert (record[name], record[f"{name}_std"]) == (row[name]["mean"], row[name]["std"])
        assert record["finished_seeds"] == sum(v is not None for v in row["level"]["values"])
    points = [point for curve in report["curves"] for point in curve["mean_test_accuracy"]]
    assert [record["test_accuracy"] for record in study.curves] == points
    lines = list(csv.DictReader(io.StringIO(printed(folder, "--format", "csv"))))
    assert [line["key"] for line in lines] == [record["key"] for record in study.levels]
    assert all(
        line.keys() == record.keys() for line, record in zip(lines, study.levels, strict=True)
    )


def test_frames_have_the_records(study: Study) -> None:
    pandas = pytest.importorskip("pandas")
    for records in (study.rows, study.levels, study.curves):
        frame = records.frame()
        assert isinstance(frame, pandas.DataFrame)
        assert list(frame.columns) == list(records[0])
        assert len(frame) == len(records) > 0
    assert study.levels.frame()["sparsity"].max() == max(r["sparsity"] for r in study.levels)


def test_what_the_page_says_of_records_is_all_of_them(study: Study) -> None:
    tables = [part.split("\n\n")[0] for part in PAGE.split("| of `")[1:]]
    cells = [re.findall(r"^\| (.*?) \|", table, re.M) for table in tables[:3]]
    rows, levels, curves = ({n for c in t for n in re.findall(r"`(\w+)`", c)} for t in cells)
    assert rows - {"_std"} == {name for name in study.rows[0] if not name.endswith("_std")}
    assert curves == set(study.curves.names)
    recorded = set(re.findall(r"`(\w+)`", tables[1].splitlines()[-1]))
    assert len(recorded) > 8
    assert levels | recorded < study.levels[0].keys()


@pytest.mark.usefixtures("one_deterministic_thread")
def test_a_network_computes_what_was_measured(study: Study) -> None:
    test = study.images("test")
    recorded = {(r["recipe"], r["seed"], r["level"]): r for r in study.levels}
    reported = {key: r for key, r in recorded.items() if r["selected"] and r["role"] == "student"}
    for (recipe, seed, level), record in list(reported.items())[:3]:
        for network in (study.network(recipe, seed), study.network(recipe, seed, level=level)):
            assert not network.training
            with torch.no_grad():
                right = sum(int((network(x).argmax(1) == y).sum()) for x, y in test.batches(100))
            assert right / len(test) == record["test_accuracy"]
    weights = study.network("vanilla", 0, level=1).state_dict()
    pruned = [w for w in weights.values() if w.ndim > 1]
    kept = sum(int(w.count_nonzero()) for w in pruned)
    assert kept <= recorded["vanilla", 0, 1]["nonzero_weights"] < sum(w.numel() for w in pruned)


def test_images_are_those_that_are_trained_and_measured_on(study: Study) -> None:
    train, validation, test = (study.images(s) for s in ("train", "validation", "test"))
    assert len(train) + len(validation) + len(test) == 1797
    flipped = (train.labels != train.true_labels).double().mean()
    assert float(flipped) == study.rows[0]["flip_rate"]
    assert torch.equal(test.labels, test.true_labels)
    assert train.pixels.shape == (len(train), 8, 8, 1)
    assert train.pixels.dtype == torch.uint8
    assert train.images.shape == (len(train), 1, 8, 8)
    # Two splits have no image in common but what the digits hold twice.
    normalized = torch.cat([images for images, _ in test.batches(7)])
    assert torch.equal(normalized, test.images)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda s: s.network("vanila"), InputError, "vanila is not in the spec (allowed: vanilla,"),
        (lambda s: s.network("vanilla", 7), InputError, "seed: 7 is not in the spec (allowed: 0, "),
        (lambda s: s.network("vanilla", variant="x"), InputError, "variant: x is not in the spec"),
        (lambda s: s.network("vanilla", level=9), WorkError, "level 9 is not in the store"),
        (lambda s: s.network("vanilla", level=-1), WorkError, "level -1 is not in the store"),
        (lambda s: s.images("trian"), InputError, "split: is trian (allowed: train, validation"),
    ],
)
def test_what_is_not_there_is_one_error(
    call: object, kind: type[DsdctlError], words: str, study: Study
) -> None:
    with pytest.raises(kind, match=re.escape(words)):
        call(study)  # type: ignore[operator]


def test_a_spec_or_store_that_is_not_there_is_an_input_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"store: .*no such folder"):
        dsdctl.open(folder / "digits.yaml", store=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"nothing\.yaml: No such file"):
        dsdctl.open(tmp_path / "nothing.yaml")


def test_damage_is_warned_of_and_nothing_is_written(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "dsdctl-store", tmp_path / "store")
    study = dsdctl.open(folder / "digits.yaml", store=tmp_path / "store")
    key = study.levels[0]["key"]
    (tmp_path / "store" / "levels" / key[:2] / key / "result.json").write_text("{}")
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "store").rglob("*")}
    with pytest.warns(UserWarning, match=key):
        damaged = dsdctl.open(folder / "digits.yaml", store=tmp_path / "store")
    assert len(damaged.levels) < len(study.levels)
    assert {f: f.stat().st_mtime_ns for f in (tmp_path / "store").rglob("*")} == before


@pytest.fixture
def without_last(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A store without the last level of its last student, and where that level was."""
    store = tmp_path / "store"
    shutil.copytree(folder / "dsdctl-store", store)
    students = [r for r in dsdctl.open(folder / "digits.yaml", store=store).levels if r["recipe"]]
    key = students[-1]["key"]
    place = store / "levels" / key[:2] / key
    place.rename(tmp_path / "kept")
    return store, place


def test_refresh_reads_what_came_since(
    folder: Path, without_last: tuple[Path, Path], study: Study, tmp_path: Path
) -> None:
    store, place = without_last
    opened = dsdctl.open(folder / "digits.yaml", store=store)
    fewer = len(opened.levels)
    assert not opened.complete
    with pytest.raises(WorkError, match="not finished, no level is reported yet"):
        opened.network("kd-dense-teacher", 1)
    assert opened.network("kd-dense-teacher", 1, level=0)
    (tmp_path / "kept").rename(place)
    assert len(opened.levels) == fewer == len(study.levels) - 1
    opened.refresh()
    assert list(opened.levels) == list(study.levels)
    assert opened.complete


def test_before_anything_has_run_the_names_are_known(
    folder: Path, study: Study, tmp_path: Path
) -> None:
    shutil.copytree(folder / "dsdctl-store", tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "levels")
    empty = dsdctl.open(folder / "digits.yaml", store=tmp_path)
    assert (len(empty.levels), len(empty.curves)) == (0, 0)
    assert empty.curves.names == study.curves.names
    assert empty.levels.names == study.levels.names
    assert empty.rows.names == study.rows.names


def test_importing_is_light_and_opening_needs_no_torch(folder: Path) -> None:
    program = (
        "import sys, dsdctl\n"
        "assert not {'torch', 'pydantic', 'numpy'} & sys.modules.keys()\n"
        "study = dsdctl.open('digits.yaml', store='dsdctl-store')\n"
        "study.rows, study.levels, study.curves\n"
        "assert not {'torch', 'pandas', 'matplotlib'} & sys.modules.keys()\n"
    )
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_runs_from_top_to_bottom(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert "vanilla" in capsys.readouterr().out
    assert isinstance(names["study"], Study)


@pytest.mark.long
@pytest.mark.usefixtures("one_deterministic_thread")
def test_the_notebook_runs_and_its_trace_is_that_of_the_hessian(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "agg")
    cells = json.loads((ROOT / "docs" / "study.ipynb").read_text())["cells"]
    names: dict[str, Any] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "docs/study.ipynb", "exec"), names)
    pyplot = names["plt"]
    assert len(pyplot.get_fignums()) == 3
    pyplot.close("all")
    shares = [share for _, _, share in names["reliability"](names["study"].network("vanilla", 0))]
    assert sum(shares) == pytest.approx(1)
    network = names["study"].network("vanilla", 0, level=1)
    estimate, error = names["hessian_trace"](network, samples=100)
    exact = exact_trace(network, names["images"], names["labels"])
    assert abs(estimate - exact) < 5 * error


def exact_trace(network: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The sum over all weights but pruned ones of the loss's second derivative."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    loss = torch.nn.functional.cross_entropy(network(images), labels)
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    total = 0.0
    for weight, gradient in zip(weights, gradients, strict=True):
        for place in weight.nonzero().tolist():
            (row,) = torch.autograd.grad(gradient[tuple(place)], weight, retain_graph=True)
            total += float(row[tuple(place)])
    return total
