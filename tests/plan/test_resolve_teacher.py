"""From spec files to rows: what a teacher is, and when its table is used."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from builders import TABLE1, line_of, only_problem, resolved, write, write_recipe
from resolving import BEST, DENSE, only_row, teacher_source

from dsdctl.plan.resolve import resolve
from dsdctl.plan.teacher_table import table_bytes, view_count
from dsdctl.spec.experiment import SparsestWithin
from dsdctl.spec.networks.vgg import VGGLike
from dsdctl.spec.views import Augment


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
