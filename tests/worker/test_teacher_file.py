"""A teacher from a weights file: the right one teaches, a wrong one is named and teaches nobody."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from networks import build_network
from safetensors.torch import load_file, save
from soak import dsdctl, levels, result_bytes, spec
from torch import Tensor

ONE_LEVEL = ("levels: 1", "levels: 0")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a dense teacher and of a student that it taught."""
    folder = tmp_path_factory.mktemp("stored")
    spec(folder, ONE_LEVEL, ("[vanilla]", "[kd-dense-teacher]"))
    done = dsdctl(folder, "run", "small.yaml", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """Those of a teacher as in that spec, which would do."""
    network = build_network("vgg-like", 1, 10, seed=0, depth=1, width=6, pool=2)
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def _recipe(folder: Path, name: str, content: bytes) -> None:
    (folder / f"{name}.safetensors").write_bytes(content)
    text = f"recipe: {name}\ntitle: A file\ndistill: {{teacher: {{weights: {name}.safetensors}}}}\n"
    (folder / f"{name}.yaml").write_text(text)


@pytest.mark.long
def test_a_file_made_from_a_stored_level_teaches_as_that_level_does(
    stored: Path, tmp_path: Path
) -> None:
    found = [load_file(level / "weights.safetensors") for level in levels(stored / "dsdctl-store")]
    weights = next(w for w in found if w["features.0.weight"].shape[0] == 6)
    _recipe(tmp_path, "from-file", save(weights))
    spec(tmp_path, ONE_LEVEL, ("[vanilla]", "[from-file]"))
    done = dsdctl(tmp_path, "run", "small.yaml", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    student = result_bytes(tmp_path / "dsdctl-store")
    trained = {c for name, c in student.items() if name.endswith(("weights.safetensors", "jsonl"))}
    assert len(levels(tmp_path / "dsdctl-store")) == 1
    assert trained <= set(result_bytes(stored / "dsdctl-store").values())


def _with(change: Callable[[dict[str, Tensor]], object]) -> Callable[[dict[str, Tensor]], bytes]:
    def content(weights: dict[str, Tensor]) -> bytes:
        changed = dict(weights)
        change(changed)
        return save(changed)

    return content


NAME = "classifier.weight"

WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], bytes], str]] = {
    "missing": (_with(lambda w: w.pop(NAME)), f"{NAME} is missing"),
    "extra": (_with(lambda w: w.update(more=torch.ones(2))), "more is not one of the network's"),
    "shape": (_with(lambda w: w.update({NAME: w[NAME].T.contiguous()})), f"{NAME} has shape"),
    "scalar": (_with(lambda w: w.update({NAME: torch.tensor(1.0)})), f"{NAME} has shape ()"),
    "half": (_with(lambda w: w.update({NAME: w[NAME].half()})), f"{NAME} is torch.float16"),
    "whole": (_with(lambda w: w.update({NAME: w[NAME].long()})), f"{NAME} is torch.int64"),
    "not-a-number": (_with(lambda w: w.update({NAME: w[NAME] * torch.nan})), "not finite"),
    "infinite": (_with(lambda w: w.update({NAME: w[NAME] / 0})), "not finite"),
    "empty": (lambda _: b"", "not a whole safetensors file"),
    "no-safetensors": (lambda _: b"PK\x03\x04" + bytes(100), "not a whole safetensors file"),
    "truncated": (lambda weights: save(weights)[:-9], "not a whole safetensors file"),
    "cut-in-the-header": (lambda weights: save(weights)[:20], "not a whole safetensors file"),
}


def test_a_wrong_file_is_named_in_one_message_and_teaches_nobody(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    """All of them as recipes of one spec, so that one process refuses them all."""
    for name, (content, _) in WRONG.items():
        _recipe(tmp_path, name, content(weights))
    spec(tmp_path, ONE_LEVEL, ("[vanilla]", f"[{', '.join(WRONG)}]"))
    done = dsdctl(tmp_path, "run", "small.yaml", "--jobs", "1")
    assert done.returncode == 2
    last = done.stderr.splitlines()
    messages = [line for line in last if not line.startswith("[") and ".safetensors" in line]
    for name, (_, reason) in WRONG.items():
        (message,) = [line for line in messages if f"{name}.safetensors" in line]
        assert reason in message
    assert not (tmp_path / "dsdctl-store").exists()


@pytest.mark.parametrize("file", ["nowhere.safetensors", "folder"])
def test_a_file_that_is_none_is_bad_input(file: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    _recipe(tmp_path, "from-file", b"")
    recipe = tmp_path / "from-file.yaml"
    recipe.write_text(recipe.read_text().replace("from-file.safetensors", file))
    spec(tmp_path, ONE_LEVEL, ("[vanilla]", "[from-file]"))
    done = dsdctl(tmp_path, "run", "small.yaml")
    assert done.returncode == 2
    assert "from-file.yaml:3: distill.teacher.weights: " in done.stderr
    assert file in done.stderr
    assert not (tmp_path / "dsdctl-store").exists()
