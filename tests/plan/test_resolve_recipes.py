"""From spec files to rows: where recipes are found, and what they lay over the spec."""

from pathlib import Path

import pytest
from builders import ROOT, line_of, only_problem, problems, resolved, spec_data, write, write_recipe
from resolving import only_row

from dsdctl.plan.resolve import resolve
from dsdctl.spec.networks.vgg import VGGLike
from dsdctl.spec.recipe_files import recipe_file


class TestRecipes:
    def test_are_looked_for_beside_the_spec_then_in_recipes_then_above_then_packaged(
        self, tmp_path: Path
    ) -> None:
        spec = tmp_path / "specs" / "spec.yaml"
        places = [
            tmp_path / "specs",
            tmp_path / "specs" / "recipes",
            tmp_path / "recipes",
        ]
        assert recipe_file("vanilla", spec) == ROOT / "recipes" / "vanilla.yaml"
        for folder in reversed(places):
            nearest = write_recipe(folder, "vanilla")
            assert recipe_file("vanilla", spec) == nearest
        assert recipe_file("nonesuch", spec) is None

    @pytest.mark.parametrize(("folder", "spec"), [("specs", "a.yaml"), ("specs/sub", "../a.yaml")])
    def test_above_are_found_from_whatever_folder_the_spec_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, spec: str
    ) -> None:
        above = write_recipe(tmp_path / "recipes", "mine")
        (tmp_path / folder).mkdir(parents=True)
        monkeypatch.chdir(tmp_path / folder)
        found = recipe_file("mine", Path(spec))
        assert found is not None and found.samefile(above)

    def test_beside_the_spec_replace_those_of_the_package(self, tmp_path: Path) -> None:
        write(tmp_path / "vanilla.yaml", {"recipe": "vanilla", "title": "mine"})
        assert only_row(tmp_path, {}).recipe.title == "mine"

    def test_that_are_nowhere_are_reported_with_those_that_are(self, tmp_path: Path) -> None:
        spec = write(tmp_path / "spec.yaml", spec_data({"recipes": ["vanilla", "nonesuch"]}))
        problem = only_problem(lambda: resolve(spec))
        assert problem.startswith(f"{spec}:{line_of(spec, 'nonesuch')}: recipes[1]: no recipe")
        assert "(allowed: early-stop, entropy-early-stop, " in problem

    def test_that_are_broken_are_all_reported(self, tmp_path: Path) -> None:
        one = write(tmp_path / "one.yaml", "recipe: one\ntitel: One\n")
        two = write(tmp_path / "two.yaml", "recipe: two\ntitle: Two\nselect: last\n")
        found = problems(lambda: resolved(tmp_path, {"recipes": ["one", "two", "nonesuch"]}))
        files = {line.split(":")[0] for line in found}
        assert files == {str(one), str(two), str(tmp_path / "spec.yaml")}

    def test_must_be_named_as_their_file(self, tmp_path: Path) -> None:
        file = write(tmp_path / "mine.yaml", "title: x\nrecipe: other\n")
        assert only_problem(lambda: resolved(tmp_path, {"recipes": ["mine"]})) == (
            f"{file}:2: recipe: is other, but the file is named mine.yaml"
        )

    def test_that_distil_need_a_teacher_in_the_spec(self, tmp_path: Path) -> None:
        data = spec_data({"recipes": ["vanilla", "kd-dense-teacher"]})
        del data["teacher"]
        spec = write(tmp_path / "spec.yaml", data)
        problem = only_problem(lambda: resolve(spec))
        assert problem.startswith(f"{spec}:{line_of(spec, 'kd-dense')}: recipes[1]: ")
        assert "the spec has no `teacher`" in problem

    def test_lay_their_training_pruning_and_teacher_over_the_spec(self, tmp_path: Path) -> None:
        write_recipe(
            tmp_path,
            "mine",
            distill={"teacher": "best"},
            training={"epochs": 9, "optimizer": {"lr": 0.5}},
            pruning={"levels": 2, "retrain": "rewind"},
            teacher={"width": 16, "seed": 7},
        )
        spec = resolved(
            tmp_path, {"recipes": ["vanilla", "mine"], "training.optimizer.momentum": 0}
        )
        plain, mine = spec.rows
        assert mine.student.training.epochs == 9
        assert mine.student.training.optimizer.lr == 0.5
        assert mine.student.training.optimizer.momentum == 0
        assert mine.student.training.batch_size == 100
        assert (mine.student.pruning.levels, mine.student.pruning.retrain) == (2, "rewind")
        assert mine.student.pruning.fraction == 0.2
        assert mine.teacher_source is not None
        assert mine.teacher_source.setup.network == VGGLike(
            arch="vgg-like", depth=2, width=16, pool=2
        )
        assert mine.teacher_source.seed == 7
        assert (plain.student.training.epochs, plain.student.pruning.levels) == (4, 3)

    def test_may_take_pruning_away(self, tmp_path: Path) -> None:
        write_recipe(tmp_path, "control", pruning="none")
        pruning = only_row(tmp_path, {"recipes": ["control"]}).student.pruning
        assert (pruning.criterion, pruning.rounds) == ("none", 3)

    def test_may_bring_pruning_back(self, tmp_path: Path) -> None:
        write_recipe(tmp_path, "mine", pruning={"criterion": "magnitude", "levels": 2})
        pruning = only_row(tmp_path, {"recipes": ["mine"], "pruning": "none"}).student.pruning
        assert (pruning.criterion, pruning.rounds) == ("magnitude", 2)

    def test_leave_open_what_the_specs_stop_settings_fill_in(self, tmp_path: Path) -> None:
        write_recipe(tmp_path, "given", stop={"patience": 5})
        write_recipe(tmp_path, "endless")
        settings = {"patience": 2, "tolerance": 0.02, "entropy_drop": 0.1}
        changes = {"recipes": ["early-stop", "given", "endless"], "stop": settings}
        early, given, endless = (row.stop for row in resolved(tmp_path, changes).rows)
        assert early is not None
        assert given is not None
        assert (early.patience, early.tolerance, early.entropy_drop) == (2, 0.02, 0.1)
        assert (given.patience, given.tolerance) == (5, 0.02)
        assert endless is None


def test_a_reference_must_be_to_a_recipe_of_the_spec(tmp_path: Path) -> None:
    problem = only_problem(lambda: resolved(tmp_path, {"reference": {"vanila": {"pflops": 1}}}))
    assert "reference.vanila: no such recipe in this spec (allowed: vanilla)" in problem
