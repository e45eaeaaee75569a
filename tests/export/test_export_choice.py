"""`dsdctl export`: which level it writes, and where it writes nothing."""

import re
import shutil
from pathlib import Path

import pytest
from builders import spec_data, write, write_recipe
from exporting import SPEC, export, run_all, store_of

from dsdctl.store.store import Store

pytest.importorskip("onnxruntime", reason="dsdctl[export] is not installed")
pytest.importorskip("onnxscript", reason="dsdctl[export] is not installed")


def test_a_row_that_reports_the_sparsest_close_level_is_exported_at_it(
    spec: Path, tmp_path: Path
) -> None:
    write_recipe(tmp_path, "mine", select={"sparsest_within": 0.9})
    other = write(tmp_path / "spec.yaml", SPEC | {"recipes": ["vanilla", "mine"]})
    shutil.copytree(store_of(spec), tmp_path / "store")
    cards = {}
    for recipe in ("vanilla", "mine"):
        options = ("--variant", "student.width=4", "--output", tmp_path / recipe)
        done = export(other, "--recipe", recipe, *options)
        assert done.exit_code == 0, done.output
        cards[recipe] = (tmp_path / recipe / "README.md").read_text()
    chosen = "- chosen: sparsest level within 90 points of the best, on the validation images"
    assert chosen in cards["mine"].splitlines()
    assert "- chosen: best level, on the validation images" in cards["vanilla"].splitlines()
    last = SPEC["pruning"]["levels"]
    assert f"\nLevel {last}, " in cards["mine"]
    assert f"\nLevel {last}, " not in cards["vanilla"]


class TestNothingIsWritten:
    @pytest.fixture
    def copy(self, spec: Path, tmp_path: Path) -> Path:
        """The same run in a store that may be damaged."""
        shutil.copytree(store_of(spec), tmp_path / "store")
        return Path(shutil.copy(spec, tmp_path))

    def refused(self, spec: Path, code: int, *options: object) -> str:
        before = sorted(spec.parent.iterdir())
        output = spec.parent / "out"
        done = export(spec, "--output", output, *options)
        assert done.exit_code == code, done.output
        assert sorted(spec.parent.iterdir()) == before
        (line,) = done.stderr.splitlines()
        return line

    WIDTH_4 = ("--variant", "student.width=4")

    def test_where_the_variant_is_not_clear(self, copy: Path) -> None:
        line = self.refused(copy, 2)
        assert line == "--variant: missing (allowed: student.width=4; student.width=6)"
        assert "is not in the spec" in self.refused(copy, 2, "--variant", "x")

    def test_where_there_is_no_store(self, copy: Path) -> None:
        shutil.rmtree(store_of(copy))
        assert "no such folder" in self.refused(copy, 2, *self.WIDTH_4)

    def test_where_no_level_is_there(self, copy: Path) -> None:
        shutil.rmtree(store_of(copy) / "levels")
        line = self.refused(copy, 3, *self.WIDTH_4)
        assert line.endswith("vanilla seed 0: not finished, 0 of 4 levels; there is no network to "
                             "export")  # fmt: skip

    def test_where_the_weights_were_dropped(self, copy: Path) -> None:
        store = Store(store_of(copy))
        for folder in store_of(copy).glob("levels/*/*"):
            store.levels.drop_weights(folder.name)
        assert "were dropped by `dsdctl store gc`" in self.refused(copy, 3, *self.WIDTH_4)

    def test_where_the_weights_are_damaged(self, copy: Path) -> None:
        for file in store_of(copy).glob("levels/*/*/weights.safetensors"):
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
        assert "checksum mismatch" in self.refused(copy, 3, *self.WIDTH_4)

    @pytest.mark.usefixtures("one_deterministic_thread")
    def test_where_level_0_diverged(self, tmp_path: Path) -> None:
        changes = {"training.optimizer": {"lr": 1000.0}, "pruning.levels": 0}
        spec = write(tmp_path / "spec.yaml", spec_data(changes))
        run_all(spec)
        assert "vanilla seed 0: diverged" in self.refused(spec, 3)

    def test_into_a_folder_that_is_there(self, copy: Path) -> None:
        output = copy.parent / "out"
        output.mkdir()
        assert self.refused(copy, 2, *self.WIDTH_4) == f"--output: {output}: already exists"
        assert list(output.iterdir()) == []

    def test_into_a_folder_that_cannot_be_made(self, copy: Path) -> None:
        output = copy / "out"
        line = self.refused(copy, 2, *self.WIDTH_4, "--output", output)
        assert re.fullmatch(f"--output: {output}: (File exists|Not a directory)", line)

    @pytest.mark.parametrize(
        ("options", "code", "reason"),
        [
            (("--level", 4), 2, "--level: is 4 (allowed: 0 to 3)"),
            (("--level", 1, "--best"), 2, "--best: not with --level"),
            (
                ("--sparsest-within", 1),
                2,
                "--sparsest-within: is 1.0 (allowed: >= 0, < 1; 0.01 is a point)",
            ),
        ],
    )
    def test_where_the_level_is_not_clear(
        self, copy: Path, options: tuple[object, ...], code: int, reason: str
    ) -> None:
        assert self.refused(copy, code, *self.WIDTH_4, *options) == reason


class TestLevels:
    """Which level is exported where one is asked for, in the words of its card."""

    @pytest.mark.parametrize(
        ("options", "level", "words"),
        [
            (("--level", 0), 0, "level 0, as asked"),
            (("--level", 2), 2, "level 2, as asked"),
            (
                ("--sparsest-within", 0.9),
                3,
                "sparsest level within 90 points of the best, on the validation images, as asked",
            ),
            (("--best",), None, "best level, on the validation images, as asked"),
        ],
    )
    def test_are_those_that_are_asked_for(
        self,
        spec: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        options: tuple[object, ...],
        level: int | None,
        words: str,
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # only to be quick
        width = ("--variant", " student.width = 4 ", "--no-latency")
        done = export(spec, *width, *options, "--output", tmp_path / "out")
        assert done.exit_code == 0, done.output
        card = (tmp_path / "out/README.md").read_text()
        assert f"- chosen: {words}" in card.splitlines()
        if level is not None:
            assert f"\nLevel {level}, " in card
            dense = "dense: no weight is removed"
            assert (dense in card) is (dense in done.stdout) is (level == 0)
