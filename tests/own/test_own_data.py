"""Data of one's own: run once, known by what the arrays hold."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import line_of, only_problem, spec_data, write

from dsdctl.data.own import OwnData, Unprepared, not_prepared, own_data, prepare_own
from dsdctl.data.prepare import Files
from dsdctl.errors import InputError, WorkError
from dsdctl.keys import NO_NOISE, key_of
from dsdctl.plan.plan import make_plan
from dsdctl.plan.resolve import resolve
from dsdctl.plan.trajectory import Trajectory
from dsdctl.spec.dataset import Dataset
from dsdctl.worker.inputs import load_data

DATA = """\
import numpy as np


def load(count=60, test=0):
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (count + test, 8, 8, 3), dtype=np.uint8)
    y = np.arange(count + test) % 3
    parts = x[:count], y[:count], x[count:], y[count:]
    return parts if test else parts[:2]
"""


def spec(folder: Path, **dataset: Any) -> Path:
    own = {"name": "python", "file": "data.py", "make": "load", "test": {"fraction": 0.5}}
    changes = {"dataset": {**own, **dataset}, "training.batch_size": 10, "student.depth": 1}
    return write(folder / "spec.yaml", spec_data(changes))


def planned(folder: Path, **dataset: Any) -> Trajectory:
    plan = make_plan([resolve(spec(folder, **dataset), prepare=prepare_own)])
    (trajectory,) = plan.trajectories.values()
    return trajectory


def key(trajectory: Trajectory) -> str:
    return key_of(trajectory.level_identity(0, None, None))


def given(folder: Path, text: str) -> OwnData:
    """Data that a function without arguments gives."""
    file = write(folder / "data.py", f"import numpy as np\ndef load():\n    return {text}\n")
    return own_data(Dataset(name="python", file="data.py", make="load"), file)


def test_its_key_is_what_the_arrays_hold(tmp_path: Path) -> None:
    write(tmp_path / "one" / "data.py", DATA)
    write(tmp_path / "two" / "data.py", f"# another file\n{DATA}")
    first = planned(tmp_path / "one")
    assert key(planned(tmp_path / "two")) == key(first)
    assert key(planned(tmp_path / "one", options={"count": 60})) == key(first)
    assert key(planned(tmp_path / "one", options={"count": 64})) != key(first)
    assert str(tmp_path) not in first.level_identity(0, None, None).model_dump_json()


def test_workers_get_the_arrays_that_it_gave(tmp_path: Path) -> None:
    import torch

    write(tmp_path / "data.py", DATA)
    options = {"count": 50, "test": 7}
    trajectory = planned(tmp_path, options=options, test=None, validation="test")
    facts = trajectory.setup.images.facts
    assert (facts.train_images, facts.test_images, facts.classes) == (50, 7, 3)
    files = Files(trajectory.setup.images.path, tmp_path)
    images = trajectory.identity.images
    data = load_data(images, NO_NOISE, files, torch.device("cpu"))
    draw = np.random.default_rng(0).integers(0, 256, (57, 8, 8, 3), dtype=np.uint8)
    assert torch.equal(data.test.images[torch.arange(7)], torch.from_numpy(draw[50:]))
    assert data.test.labels.tolist() == [k % 3 for k in range(50, 57)]
    other = images.model_copy(update={"content": 64 * "0"})
    with pytest.raises(WorkError, match="changed since the run was planned"):
        load_data(other, NO_NOISE, files, torch.device("cpu"))
    (files.path / "train_images.npy").write_bytes(b"")
    with pytest.raises(WorkError, match="not whole any more; `dsdctl prepare SPEC`"):
        load_data(images.model_copy(update={"split_seed": 9}), NO_NOISE, files,
                  torch.device("cpu"))  # fmt: skip


def test_before_it_was_run_a_spec_is_valid_but_has_no_plan(
    tmp_path: Path, dsdctl: Callable[..., Any]
) -> None:
    write(tmp_path / "data.py", DATA + "raise RuntimeError('was run')\n")
    file = spec(tmp_path)
    reason = f"{file}:{line_of(file, 'data.py')}: dataset.file: {tmp_path}/data.py:load has not"
    assert only_problem(lambda: make_plan([resolve(file)])).startswith(reason)
    validated = dsdctl("validate", file)
    assert validated.returncode == 0
    assert "ok as far as can be said" in validated.stdout
    assert dsdctl("plan", file).returncode == 2
    assert not (tmp_path / "dsdctl-prepared").exists()


def test_prepare_runs_it_once(tmp_path: Path, dsdctl: Callable[..., Any]) -> None:
    write(tmp_path / "data.py", DATA + "print('noise')\n")
    file = spec(tmp_path)
    first, second = dsdctl("prepare", file), dsdctl("prepare", file)
    assert (first.returncode, second.returncode) == (0, 0)
    assert first.stderr.count("runs code from") == 1 and second.stderr == ""
    assert first.stdout == second.stdout
    assert re.match(r"python: ready in .* \(30 train, 0 validation, 30 test images\)", first.stdout)
    assert dsdctl("plan", file).returncode == 0


def test_what_it_raises_is_one_problem_at_its_line(tmp_path: Path) -> None:
    write(tmp_path / "data.py", "def load():\n    raise ValueError('no such folder')\n")
    file = spec(tmp_path)
    problem = only_problem(lambda: resolve(file, prepare=prepare_own))
    where = f"{file}:{line_of(file, 'data.py')}: dataset.file: "
    assert problem == f"{where}{tmp_path}/data.py:2: ValueError: no such folder"
    write(tmp_path / "data.py", "def lode(): pass\n")
    assert "has no load; did you mean lode?" in only_problem(lambda: resolve(file))


LABELS = "np.arange(6) % 2"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("3", r"it gives a int \(allowed: x_train, y_train"),
        ("(1, 2, 3)", r"it gives a tuple of 3 \(allowed: x_train"),
        (f"np.zeros((6, 8, 8)), {LABELS}", r"x_train: float64 .*; pixels in \[0, 1\] are to be"),
        (
            f"np.zeros((6, 3, 32, 32), np.uint8), {LABELS}",
            r"x_train: shape \(6, 3, 32, 32\) has its 3 channels first "
            r"\(allowed: channels last, x\.transpose\(0, 2, 3, 1\)\)",
        ),
        (f"np.zeros((5, 8, 8), np.uint8), {LABELS}", r"y_train: int64 .* of shape \(5,\)"),
        ("np.zeros((2, 8, 8), np.uint8), np.array([1, 1])", "y_train: one class only"),
        ("np.zeros((2, 8, 8), np.uint8), np.array([1, 2])", "y_train: no image has label 0"),
        ("np.zeros((2, 8, 8), np.uint8), np.array([-1, 1])", r"y_train: label -1 \(allowed: 0 to"),
        (
            f"np.zeros((6, 8, 8), np.uint8), {LABELS}, np.zeros((6, 9, 9), np.uint8), {LABELS}",
            "x_test: images of",
        ),
    ],
)
def test_what_are_no_images_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    data = given(tmp_path, text)
    with pytest.raises(InputError, match=reason):
        prepare_own(data)
    assert not data.folder.exists()
    with pytest.raises(Unprepared):
        not_prepared(data)


def test_datasets_of_torch_are_read_item_by_item(tmp_path: Path) -> None:
    text = """\
import torch
from PIL import Image
from torch.utils.data import Dataset


class Pictures(Dataset):
    def __init__(self, tensors):
        self.tensors = tensors

    def __len__(self):
        return 4

    def __getitem__(self, index):
        tensor = torch.arange(2 * 5 * 3, dtype=torch.uint8).view(2, 5, 3) + index
        image = tensor.permute(2, 0, 1) if self.tensors else Image.fromarray(tensor.numpy())
        return image, index % 2


def load():
    return Pictures(True), Pictures(False)
"""
    file = write(tmp_path / "data.py", text)
    data = own_data(Dataset(name="python", file="data.py", make="load"), file)
    prepare_own(data)
    train, test = (np.load(data.folder / f"{part}_images.npy") for part in ("train", "test"))
    assert train.shape == (4, 2, 5, 3)
    assert np.array_equal(train, test)
    assert np.array_equal(train[1], np.arange(30).reshape(2, 5, 3) + 1)


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        ({"make": None}, "`name: python` needs a `make`"),
        ({"file": None}, "`name: python` needs a `file`"),
        ({"name": "npz"}, "`make` goes with `name: python`"),
        ({"name": "npz", "make": None, "options": {}}, "`options` goes with `name: python`"),
        ({"make": "a b"}, "(allowed: a name in Python)"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, dataset: dict[str, Any], reason: str
) -> None:
    write(tmp_path / "data.py", DATA)
    assert reason in only_problem(lambda: resolve(spec(tmp_path, **dataset)))
