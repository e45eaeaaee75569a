"""A matrix: its variants, their names, and what it may vary."""

from pathlib import Path
from typing import Any

import pytest
from builders import (
    error_of,
    line_of,
    only_problem,
    problems,
    resolved,
    spec_data,
    write,
    write_recipe,
)

from dsdctl.plan.resolve import resolve
from dsdctl.spec.document import Document
from dsdctl.spec.matrix import variants
from dsdctl.spec.networks.vgg import VGGLike
from dsdctl.spec.views import Augment
from dsdctl.spec.yaml import read_document


class TestMatrix:
    def test_is_the_product_of_its_axes(self, tmp_path: Path) -> None:
        matrix = {"student.depth": [1, 2], "label_noise.rate": [0.1, 0.5]}
        spec = resolved(tmp_path, {"matrix": matrix, "recipes": ["vanilla", "early-stop"]})
        assert spec.variants == (
            "student.depth=1, label_noise.rate=0.1",
            "student.depth=1, label_noise.rate=0.5",
            "student.depth=2, label_noise.rate=0.1",
            "student.depth=2, label_noise.rate=0.5",
        )
        assert [row.recipe.recipe for row in spec.rows] == 4 * ["vanilla", "early-stop"]
        assert {row.variant: row.student.images.noise.rate for row in spec.rows} == {
            name: float(name[-3:]) for name in spec.variants
        }

    def test_may_be_a_union_of_products(self, tmp_path: Path) -> None:
        matrix = [{"student.depth": [1, 2]}, {"student.width": [6], "student.depth": [3]}]
        spec = resolved(tmp_path, {"matrix": matrix})
        assert spec.variants == (
            "student.depth=1",
            "student.depth=2",
            "student.width=6, student.depth=3",
        )
        networks = [row.student.network for row in spec.rows]
        assert networks == [
            VGGLike(arch="vgg-like", depth=depth, width=width, pool=2)
            for depth, width in ((1, 4), (2, 4), (3, 6))
        ]

    def test_reaches_keys_that_the_spec_leaves_out(self, tmp_path: Path) -> None:
        rows = resolved(tmp_path, {"matrix": {"training.optimizer.lr": [0.2, 0.3]}}).rows
        assert [row.student.training.optimizer.lr for row in rows] == [0.2, 0.3]

    def test_lays_mappings_over_mappings(self, tmp_path: Path) -> None:
        values = [{"levels": 2}, {"levels": 1, "retrain": "reinit"}]
        spec = resolved(tmp_path, {"matrix": {"pruning": values}})
        assert spec.variants == ("pruning=2", "pruning=1/reinit")
        found = [row.student.pruning for row in spec.rows]
        assert [(p.levels, p.retrain, p.fraction) for p in found] == [
            (2, "continue", 0.2),
            (1, "reinit", 0.2),
        ]

    def test_names_mappings_by_their_names_where_these_differ(self, tmp_path: Path) -> None:
        cifar = {"name": "cifar10", "root": "absent", "test": None}
        spec = resolved(tmp_path, {"matrix": {"dataset": [{"name": "digits"}, cifar]}})
        assert spec.variants == ("dataset=digits", "dataset=cifar10")
        fractions = [{"name": "digits", "test": {"fraction": f}} for f in (0.3, 0.4)]
        spec = resolved(tmp_path, {"matrix": {"dataset": fractions}})
        assert spec.variants == ("dataset=digits/0.3", "dataset=digits/0.4")

    @pytest.mark.parametrize(
        ("matrix", "where"),
        [
            (3, "matrix"),
            ("student.depth", "matrix"),
            ({"student.depth": 1}, "matrix"),
            ({"student.depth": []}, "matrix"),
            ({"student": {"depth": [1, 2]}}, "matrix"),
            ([{"student.depth": [1]}, [1, 2]], "matrix[1]"),
        ],
    )
    def test_of_the_wrong_shape_is_refused(
        self, tmp_path: Path, matrix: object, where: str
    ) -> None:
        problem = only_problem(lambda: resolved(tmp_path, {"matrix": matrix}))
        assert f": {where}: must map dotted paths to lists of values" in problem

    def test_must_give_a_variant(self, tmp_path: Path) -> None:
        problem = only_problem(lambda: resolved(tmp_path, {"matrix": []}))
        assert problem.endswith(": matrix: gives 0 variants (allowed: 1 or more)")

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            (
                {"matrix": {"training.epochs": list(range(1, 10_002))}},
                "matrix: gives 10001 variants",
            ),
            (
                {
                    "matrix": {"training.epochs": list(range(1, 1001)), "student.depth": [1, 2]},
                    "recipes": ["vanilla", "early-stop"],
                    "seeds": [0, 1, 2],
                },
                "matrix: gives 2000 variants x 2 recipes x 3 seeds = 12000 cells",
            ),
            (
                {"recipes": [f"r{i}" for i in range(11)], "seeds": list(range(1000))},
                "seeds: gives 11 recipes x 1000 seeds = 11000 cells",
            ),
            ({"recipes": ["vanilla"] * 10_001}, "recipes: gives 10001 recipes"),
        ],
    )
    def test_of_too_many_cells_is_refused_before_any_is_looked_at(
        self, changes: dict[str, Any], problem: str, tmp_path: Path
    ) -> None:
        file = write(tmp_path / "spec.yaml", spec_data({**changes, "dataset.name": "nonesuch"}))
        line = only_problem(lambda: resolve(file))
        key = problem.partition(":")[0]
        where = line_of(file, f'"{key}": ')
        assert line == f"{file}:{where}: {problem} (allowed: at most 10000)"

    def test_may_have_as_many_cells_as_are_allowed(self, tmp_path: Path) -> None:
        axes = {"label_noise.seed": list(range(25)), "dataset.split_seed": list(range(20))}
        changes = {"matrix": axes, "seeds": list(range(20)), "pruning.levels": 0}
        assert len(resolved(tmp_path, changes).rows) == 500

    def test_of_too_many_trainings_is_refused(self, tmp_path: Path) -> None:
        changes = {
            "matrix": {"label_noise.seed": list(range(10))},
            "seeds": list(range(1000)),
            "student.width": 64,
            "recipes": ["vanilla"],
            "pruning": {"fraction": 0.01, "levels": 100},
            "teacher": None,
        }
        problem = only_problem(lambda: resolved(tmp_path, changes))
        reason = "gives too many variants x recipes x seeds x levels"
        assert problem.endswith(f": matrix: {reason} (allowed: at most 1000000 trainings)")
        assert resolved(tmp_path, {**changes, "pruning": {"fraction": 0.01, "levels": 99}})

    def test_gives_each_variant_its_own_values_alone(self, tmp_path: Path) -> None:
        """And not the lines of all others: to copy these takes quadratic time."""
        values = list(range(1000, 1300))
        file = write(tmp_path / "spec.yaml", spec_data({"matrix": {"training.epochs": values}}))
        document = read_document(file)
        plain = {path for path in document.marks if path[:1] != ("matrix",)}
        for axes, variant in variants(document):
            assert set(variant.marks) == plain
            line = variant.mark(("training", "epochs")).line
            assert line == line_of(file, axes["training.epochs"])

    def test_that_is_wrong_in_all_variants_is_not_checked_to_the_end(self, tmp_path: Path) -> None:
        seeds = {"label_noise.seed": list(range(500))}
        error = error_of(lambda: resolved(tmp_path, {"matrix": seeds, "recipes": ["nonesuch"]}))
        assert len(error.problems) == 1
        assert error.lines[1:] == ("the rest was not checked",)
        wrong = {"training.batch_size": [-n for n in range(500)]}
        error = error_of(lambda: resolved(tmp_path, {"matrix": wrong}))
        assert len(error.problems) == 20
        assert error.lines[-1] == "the rest was not checked"

    def test_reads_each_recipe_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[Path] = []

        def counting(file: Path) -> Document:
            read.append(file)
            return read_document(file)

        monkeypatch.setattr("dsdctl.spec.recipe_files.read_document", counting)
        write_recipe(tmp_path, "mine", training={"epochs": 0})
        changes = {"matrix": {"label_noise.seed": list(range(9))}, "recipes": ["vanilla", "mine"]}
        problems(lambda: resolved(tmp_path, changes))
        assert [file.stem for file in read] == ["vanilla", "mine"]

    @pytest.mark.parametrize("name", ["seeds", "recipes", "reference", "experiment", "x.y"])
    def test_varies_only_what_is_trained(self, tmp_path: Path, name: str) -> None:
        problem = only_problem(lambda: resolved(tmp_path, {"matrix": {name: [[0], [1]]}}))
        assert f"'{name}' cannot be varied (allowed: paths that begin with dataset" in problem

    def test_gives_no_variant_twice(self, tmp_path: Path) -> None:
        problem = only_problem(lambda: resolved(tmp_path, {"matrix": {"student.depth": [1, 1]}}))
        assert "gives the variant student.depth=1 twice" in problem

    def test_of_astronomic_size_is_refused_at_once(self, tmp_path: Path) -> None:
        axes = {f"training.a{i}": list(range(60)) for i in range(9)}
        problem = only_problem(lambda: resolved(tmp_path, {"matrix": axes}))
        assert f"gives {60**9} variants" in problem

    def test_values_are_checked_where_they_are_written(self, tmp_path: Path) -> None:
        spec = write(
            tmp_path / "spec.yaml",
            "experiment: e\n"
            "dataset: {name: digits, test: {fraction: 0.4}}\n"
            "student: {arch: vgg-like, depth: 1, width: 4}\n"
            "training: {epochs: 2, batch_size: 100}\n"
            "recipes: [vanilla]\n"
            "seeds: [0]\n"
            "matrix:\n"
            "  student.depth:\n"
            "    - 1\n"
            "    - 9\n"
            "  student.widht: [3]\n"
            "  label_noise.rate: [2]\n"
            "  training.schedule.milestones: [[0]]\n",
        )
        found = problems(lambda: resolve(spec))
        assert f"{spec}:10: student.depth: is 9 (allowed: <= 8)" in found
        typo = [line for line in found if line.startswith(f"{spec}:11: student.widht: unknown")]
        assert "did you mean width?" in typo[0]
        # The spec itself has no such keys.
        assert f"{spec}:12: label_noise.rate: is 2 (allowed: <= 1)" in found
        assert f"{spec}:13: training.schedule.milestones[0]: is 0 (allowed: >= 1)" in found

    def test_variants_that_do_not_fit_are_all_reported(self, tmp_path: Path) -> None:
        changes = {"matrix": {"student.depth": [4, 2, 5]}}
        found = problems(lambda: resolved(tmp_path, changes))
        assert len(found) == 2
        assert all("student.depth: halves images of 8 pixels to nothing" in p for p in found)

    def test_null_takes_away_what_the_spec_says(self, tmp_path: Path) -> None:
        changes = {
            "dataset.augment": {"flip": True},
            "matrix": {"dataset.augment": [None, {"crop": 1}]},
        }
        own, laid_over = resolved(tmp_path, changes).rows
        assert own.student.augment == Augment()
        assert laid_over.student.augment == Augment(flip=True, crop=1)
