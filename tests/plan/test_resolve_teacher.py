"""From spec files to rows: where recipes are found, what is laid over what, what must fit."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from builders import (
    ROOT,
    TABLE1,
    line_of,
    only_problem,
    problems,
    resolved,
    spec_data,
    write,
    write_recipe,
)

from dsdctl.plan.resolve import resolve
from dsdctl.plan.rows import Row, TeacherSource
from dsdctl.plan.teacher_table import table_bytes, view_count
from dsdctl.spec.experiment import SparsestWithin
from dsdctl.spec.networks.vgg import VGGLike
from dsdctl.spec.recipe_files import recipe_file
from dsdctl.spec.views import Augment

DENSE = {"recipes": ["kd-dense-teacher"]}
BEST = {"recipes": ["kd-pruned-teacher"]}


def only_row(folder: Path, changes: dict[str, Any]) -> Row:
    (row,) = resolved(folder, changes).rows
    return row


def teacher_source(folder: Path, changes: dict[str, Any]) -> TeacherSource:
    found = only_row(folder, changes).teacher_source
    assert found is not None
    return found


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


class TestTeacher:
    def test_is_trained_as_the_student_where_nothing_else_is_said(self, tmp_path: Path) -> None:
        row = only_row(tmp_path, DENSE)
        assert row.teacher_source is not None
        teacher = row.teacher_source.setup
        assert teacher.training == row.student.training
        assert teacher.augment == row.student.augment
        assert teacher.pruning == row.student.pruning
        assert teacher.network == VGGLike(arch="vgg-like", depth=2, width=8, pool=2)

    def test_has_its_own_training_augmentation_and_pruning_laid_over(self, tmp_path: Path) -> None:
        row = only_row(
            tmp_path,
            {
                **DENSE,
                "teacher.training": {"epochs": 2, "optimizer": {"lr": 0.3}},
                "teacher.augment": {"flip": True},
                "teacher.pruning": "none",
            },
        )
        assert row.teacher_source is not None
        teacher = row.teacher_source.setup
        assert (teacher.training.epochs, teacher.training.batch_size) == (2, 100)
        assert teacher.training.optimizer.lr == 0.3
        assert teacher.augment == Augment(flip=True)
        assert teacher.pruning.criterion == "none"
        assert row.student.training.epochs == 4
        assert row.student.augment == Augment()
        assert row.student.pruning.criterion == "magnitude"

    def test_takes_a_recipes_training_over_too_unless_it_has_its_own(self, tmp_path: Path) -> None:
        write_recipe(tmp_path, "mine", distill={"teacher": "dense"}, training={"epochs": 9})
        changes = {"recipes": ["mine"]}
        assert teacher_source(tmp_path, changes).setup.training.epochs == 9
        own = {**changes, "teacher.training": {"epochs": 2}}
        assert teacher_source(tmp_path, own).setup.training.epochs == 2

    def test_serves_at_the_level_that_its_spec_fixes_where_a_recipe_asks_for_the_best(
        self, tmp_path: Path
    ) -> None:
        assert teacher_source(tmp_path, BEST).rule == "best"
        assert teacher_source(tmp_path, {**BEST, "teacher.level": 2}).rule == 2
        assert teacher_source(tmp_path, {**DENSE, "teacher.level": 2}).rule == "dense"
        write_recipe(tmp_path, "mine", distill={"teacher": {"sparsest_within": 0.01}})
        own = {"recipes": ["mine"], "teacher.level": 2}
        assert teacher_source(tmp_path, own).rule == SparsestWithin(sparsest_within=0.01)

    def test_must_have_the_level_that_is_asked_for(self, tmp_path: Path) -> None:
        file = write_recipe(tmp_path, "mine", distill={"teacher": {"level": 4}})
        changes = {"recipes": ["mine"]}
        problem = only_problem(lambda: resolved(tmp_path, changes))
        assert problem.startswith(f"{file}:{line_of(file, 'teacher')}: distill.teacher")
        assert "no level 4 (allowed: 0 to 3)" in problem
        assert teacher_source(tmp_path, {**changes, "teacher.pruning": {"levels": 4}}).rule == 4

    def test_that_is_not_pruned_is_named_as_it_is_written_where_it_does_not_fit(
        self, tmp_path: Path
    ) -> None:
        changes = {"pruning": {"until_sparsity": 0.5}, "teacher.pruning": "none"}
        problem = only_problem(lambda: resolved(tmp_path, changes))
        line = line_of(tmp_path / "spec.yaml", '"pruning": "none"')
        where = f"{tmp_path / 'spec.yaml'}:{line}: teacher.pruning: "
        assert problem.startswith(f"{where}without pruning no sparsity is ever reached")

    def test_from_a_file_is_found_beside_its_recipe_and_known_by_content(
        self, tmp_path: Path
    ) -> None:
        recipes = tmp_path / "recipes"
        for name, content in (("a", b"same"), ("b", b"same"), ("c", b"other")):
            write_recipe(recipes, name, distill={"teacher": {"weights": f"nets/{name}.st"}})
            write(recipes / "nets" / f"{name}.st", content.decode())
        rows = resolved(tmp_path, {"recipes": ["a", "b", "c"]}).rows
        files = [row.teacher_source.file for row in rows if row.teacher_source]
        a, b, c = (file for file in files if file)
        assert a.path == recipes / "nets" / "a.st"
        assert a.identity.weights == hashlib.sha256(b"same").hexdigest()
        assert a.identity.network == VGGLike(arch="vgg-like", depth=2, width=8, pool=2)
        assert a.identity == b.identity
        assert a.identity != c.identity

    @pytest.mark.parametrize(
        ("path", "reason"),
        [("missing", "no such file"), (".", "not a file"), ("/dev/zero", "not a file")],
    )
    def test_from_a_file_that_cannot_be_read_is_an_error(
        self, tmp_path: Path, path: str, reason: str
    ) -> None:
        file = write_recipe(tmp_path, "mine", distill={"teacher": {"weights": path}})
        problem = only_problem(lambda: resolved(tmp_path, {"recipes": ["mine"]}))
        line = line_of(file, '"weights"')
        assert problem.startswith(f"{file}:{line}: distill.teacher.weights: ")
        assert reason in problem

    def test_must_be_paired_where_the_noise_is_drawn_per_trajectory(self, tmp_path: Path) -> None:
        changes = {**DENSE, "label_noise.seed": "per-trajectory"}
        assert "needs teacher.seed: paired" in only_problem(lambda: resolved(tmp_path, changes))
        paired = {**changes, "teacher.seed": "paired"}
        assert teacher_source(tmp_path, paired).seed == "paired"

    def test_may_not_be_unpaired_by_a_recipe_either(self, tmp_path: Path) -> None:
        write_recipe(tmp_path, "mine", distill={"teacher": "dense"}, teacher={"seed": 3})
        changes = {
            "recipes": ["mine"],
            "label_noise.seed": "per-trajectory",
            "teacher.seed": "paired",
        }
        assert "needs teacher.seed: paired" in only_problem(lambda: resolved(tmp_path, changes))


class TestTeacherTable:
    @pytest.mark.parametrize(
        ("changes", "used", "reason"),
        [
            ({}, True, "1 views an image instead of 16 calls"),
            ({"dataset.augment": {"crop": 2}}, False, "25 views an image are more than the 16"),
            ({"dataset.augment": {"flip": True, "crop": 1}}, False, "18 views an image are more"),
            ({"dataset.augment": {"crop": 1}}, True, "9 views an image instead of 16 calls"),
            ({"teacher.table": "never"}, False, "teacher.table: never"),
            ({"teacher.table": "always", "dataset.augment": {"crop": 2}}, True, "always"),
        ],
    )
    def test_is_used_where_it_saves_calls(
        self, tmp_path: Path, changes: dict[str, Any], used: bool, reason: str
    ) -> None:
        found = teacher_source(tmp_path, {**DENSE, **changes})
        assert found.table is used
        assert reason in found.table_reason

    def test_is_not_used_where_it_would_not_fit(self, tmp_path: Path) -> None:
        cifar100 = {"name": "cifar100", "augment": {"flip": True, "crop": 8}}
        found = teacher_source(tmp_path, {**DENSE, "dataset": cifar100, "training.epochs": 1000})
        assert (found.table, found.table_reason) == (False, "a table would take 10.8 GiB")

    def test_of_table_1_has_162_views_an_image(self) -> None:
        rows = resolve(TABLE1).rows
        tables = [row.teacher_source.table for row in rows if row.teacher_source]
        assert tables == [True, True]
        assert view_count(rows[0].student.augment) == 162
        assert table_bytes(rows[0].student) == 4 * 50_000 * 162 * 10

    @pytest.mark.parametrize(
        ("augment", "views"),
        [(Augment(), 1), (Augment(flip=True), 2), (Augment(crop=1), 9), (Augment(crop=4), 81)],
    )
    def test_counts_flips_times_crops(self, augment: Augment, views: int) -> None:
        assert view_count(augment) == views

    def test_is_never_made_of_random_resized_crops(self, tmp_path: Path) -> None:
        endless = {"dataset.augment": {"flip": True, "resized_crop": 0.08}}
        found = teacher_source(tmp_path, {**DENSE, **endless, "training.epochs": 10_000})
        assert (found.table, found.table_reason) == (
            False,
            "no table can hold the views of random resized crops",
        )
        changes = {**DENSE, **endless, "teacher.table": "always"}
        problem = only_problem(lambda: resolved(tmp_path, changes))
        assert ": teacher.table: is always, but no table can hold the views" in problem
        assert "(allowed: auto, never)" in problem


class TestLabelNoise:
    @pytest.mark.parametrize(
        ("dataset", "noise", "problem"),
        [
            (
                "digits",
                {"kind": "asymmetric", "rate": 0.2},
                "label_noise.kind: is asymmetric, but digits has no map of classes "
                "(allowed: the data sets cifar10, cifar100)",
            ),
            (
                "cifar10",
                {"kind": "human"},
                "label_noise.kind: is human, but cifar10 has no human labels "
                "(allowed: cifar10n, cifar100n)",
            ),
            (
                "cifar10n",
                {"rate": 0.2},
                "label_noise.kind: is symmetric, but cifar10n is trained on human labels "
                "(allowed: human)",
            ),
            (
                "cifar10n",
                {"kind": "human"},
                "label_noise.labels: is missing "
                "(allowed with cifar10n: aggre, worse, random1, random2, random3)",
            ),
            (
                "cifar100n",
                {"kind": "human", "labels": "worse"},
                "label_noise.labels: is worse (allowed with cifar100n: noisy)",
            ),
        ],
    )
    def test_must_be_one_that_the_data_set_offers(
        self, tmp_path: Path, dataset: str, noise: dict[str, Any], problem: str
    ) -> None:
        changes = {"dataset": {"name": dataset}, "label_noise": noise}
        if dataset == "digits":
            changes["dataset"]["test"] = {"fraction": 0.4}
        spec = write(tmp_path / "spec.yaml", spec_data(changes))
        line = line_of(spec, '"label_noise"')
        found = only_problem(lambda: resolve(spec))
        assert found.endswith(problem)
        assert int(found.split(":")[1]) - line in range(3)

    def test_of_people_has_one_set_of_labels_on_cifar100(self, tmp_path: Path) -> None:
        changes = {"dataset": {"name": "cifar100n"}, "label_noise": {"kind": "human"}}
        images = only_row(tmp_path, changes).student.images
        assert images.noise.labels == "noisy"
        assert (images.flip_rate.rate, images.flip_rate.exact) == (0.402, True)

    @pytest.mark.parametrize(
        ("noise", "rate", "exact"),
        [
            ({"rate": 0.2}, int(0.2 * 45_000) / 45_000, True),
            ({"kind": "pair-flip", "rate": 0.45}, 0.45, True),
            ({"kind": "symmetric-all", "rate": 0.5}, 0.45, False),
            ({"kind": "asymmetric", "rate": 0.4}, 0.2, False),
        ],
    )
    def test_is_known_by_its_true_flip_rate(
        self, tmp_path: Path, noise: dict[str, Any], rate: float, exact: bool
    ) -> None:
        dataset = {"name": "cifar10", "validation": {"fraction": 0.1}}
        found = only_row(tmp_path, {"dataset": dataset, "label_noise": noise})
        flips = found.student.images.flip_rate
        assert flips.rate == pytest.approx(rate, abs=1e-12)
        assert flips.exact is exact


class TestAugmentation:
    @pytest.mark.parametrize(
        ("name", "augment"),
        [
            ("cifar10", Augment(flip=True, crop=4)),
            ("cifar100n", Augment(flip=True, crop=4)),
            ("flowers102", Augment()),
            ("imagenet", Augment(flip=True, resized_crop=0.08)),
        ],
    )
    def test_is_the_papers_unless_it_is_given(
        self, tmp_path: Path, name: str, augment: Augment
    ) -> None:
        noise = {"kind": "human"} if name.endswith("n") else {"rate": 0.1}
        changes = {"dataset": {"name": name}, "label_noise": noise}
        assert only_row(tmp_path, changes).student.augment == augment
        changes["dataset"]["augment"] = {"crop": 1}
        assert only_row(tmp_path, changes).student.augment == Augment(crop=1)

    def test_of_a_teacher_is_laid_over_the_data_sets_own(self, tmp_path: Path) -> None:
        changes = {**DENSE, "dataset": {"name": "cifar10"}, "teacher.augment": {"crop": 2}}
        assert teacher_source(tmp_path, changes).setup.augment == Augment(flip=True, crop=2)
        assert only_row(tmp_path, changes).student.augment == Augment(flip=True, crop=4)


def test_a_folder_is_relative_to_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar = {"name": "cifar10", "root": "sets"}
    folder = tmp_path / "deep"
    assert only_row(folder, {"dataset": cifar}).student.images.path == folder / "sets"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    home = only_row(folder, {"dataset": {**cifar, "root": "~/sets"}})
    assert home.student.images.path == tmp_path / "home" / "sets"
    absolute = only_row(folder, {"dataset": {**cifar, "root": "/sets"}})
    assert absolute.student.images.path == Path("/sets")


def test_a_reference_must_be_to_a_recipe_of_the_spec(tmp_path: Path) -> None:
    problem = only_problem(lambda: resolved(tmp_path, {"reference": {"vanila": {"pflops": 1}}}))
    assert "reference.vanila: no such recipe in this spec (allowed: vanilla)" in problem
