"""The ledger: Table 1's numbers, and the conventions kept apart."""

from pathlib import Path

import pytest
from builders import PAPER_MACS, TABLE1, paper_macs, planned, write_recipe

from dsdctl.cost.ledger import (
    Macs,
    RowCost,
    level_pflops_executed,
    measuring_pflops,
    nonzero_training_pflops,
    row_cost,
    table_forwards,
    table_pflops,
    teacher_call_pflops,
    training_pflops,
)
from dsdctl.plan.plan import Plan, RowPlan, make_plan
from dsdctl.plan.resolve import resolve
from dsdctl.plan.rows import TrainingSetup
from dsdctl.plan.trajectory import Trajectory

STUDENT_TRAINING = 3 * 67_831_296 * 50_000 * 160 / 1e15
TEACHER_TRAINING = 3 * 141_202_432 * 50_000 * 160 / 1e15


@pytest.fixture(scope="module")
def table1() -> Plan:
    return make_plan([resolve(TABLE1)])


def row_of(plan: Plan, recipe: str) -> RowPlan:
    return next(row for row in plan.rows if row.row.recipe.recipe == recipe)


def student(plan: Plan, recipe: str) -> Trajectory:
    return plan.trajectories[row_of(plan, recipe).students[0]]


def teacher_setup(plan: Plan) -> TrainingSetup:
    need = student(plan, "kd-dense-teacher").teacher
    assert need is not None
    return need.setup


def test_a_training_of_table_1s_student_is_1_628_pflops(table1: Plan) -> None:
    setup = student(table1, "vanilla").setup
    price = training_pflops(setup, paper_macs(setup))
    assert price == pytest.approx(STUDENT_TRAINING)
    assert price == pytest.approx(1.628, rel=1e-3)
    assert 30 * price == pytest.approx(48.84, rel=1e-3)


def test_a_training_of_table_1s_teacher_is_3_389_pflops(table1: Plan) -> None:
    setup = teacher_setup(table1)
    assert training_pflops(setup, paper_macs(setup)) == pytest.approx(3.389, rel=1e-3)


@pytest.mark.parametrize(
    ("recipe", "cost"),
    [
        ("vanilla", RowCost(30, 48.84, 0, 0.0)),
        ("early-stop", RowCost(30, 48.84, 0, 0.0)),
        ("kd-dense-teacher", RowCost(30, 48.84, 1, 3.389)),
        ("kd-pruned-teacher", RowCost(30, 48.84, 30, 101.67)),
    ],
)
def test_a_row_costs_at_most_all_its_trainings_and_those_of_its_teacher(
    table1: Plan, recipe: str, cost: RowCost
) -> None:
    found = row_cost(table1, row_of(table1, recipe), paper_macs)
    assert vars(found) == pytest.approx(vars(cost), rel=1e-3)


def test_a_teacher_at_a_fixed_level_costs_the_trainings_up_to_it(tmp_path: Path) -> None:
    write_recipe(tmp_path, "mine", distill={"teacher": {"level": 2}})
    plan = planned(tmp_path, {"recipes": ["mine"]})
    cost = row_cost(plan, plan.rows[0], paper_macs)
    assert (cost.trainings_max, cost.teacher_trainings_max) == (4, 3)


def test_a_teacher_from_a_file_costs_no_training(tmp_path: Path) -> None:
    (tmp_path / "net.st").write_bytes(b"weights")
    write_recipe(tmp_path, "mine", distill={"teacher": {"weights": "net.st"}})
    plan = planned(tmp_path, {"recipes": ["mine"]})
    cost = row_cost(plan, plan.rows[0], paper_macs)
    assert (cost.teacher_trainings_max, cost.teacher_pflops_max) == (0, 0.0)


class TestNonZero:
    MACS = Macs(1000, {"conv": 600, "linear": 300})

    def price(self, plan: Plan, density: dict[str, float]) -> float:
        setup = student(plan, "vanilla").setup
        return nonzero_training_pflops(setup, self.MACS, density)

    @pytest.mark.parametrize(
        ("density", "macs"),
        [
            ({"conv": 1.0, "linear": 1.0}, 1000),
            ({"conv": 0.5, "linear": 1.0}, 700),
            ({"conv": 0.5, "linear": 0.1}, 430),
            # What has no weights to prune, such as BatchNorm, is always computed.
            ({"conv": 0.0, "linear": 0.0}, 100),
            ({"linear": 0.5}, 850),
            ({}, 1000),
        ],
    )
    def test_scales_each_layer_by_its_density(
        self, table1: Plan, density: dict[str, float], macs: int
    ) -> None:
        assert self.price(table1, density) == pytest.approx(3 * macs * 8_000_000 / 1e15)

    def test_of_a_dense_network_is_the_papers_convention(self, table1: Plan) -> None:
        setup = student(table1, "vanilla").setup
        dense = self.price(table1, {"conv": 1.0, "linear": 1.0})
        assert dense == pytest.approx(training_pflops(setup, self.MACS))


class TestExecuted:
    def test_measuring_is_a_forward_pass_over_all_images(self, table1: Plan) -> None:
        setup = student(table1, "vanilla").setup
        assert measuring_pflops(setup, Macs(1000, {})) == pytest.approx(1000 * 60_000 / 1e15)

    def test_measuring_includes_the_validation_images(self, tmp_path: Path) -> None:
        (trajectory,) = planned(tmp_path).trajectories.values()
        price = measuring_pflops(trajectory.setup, Macs(1000, {}))
        assert price == pytest.approx(1000 * (862 + 216 + 719) / 1e15)

    def test_table_1s_teacher_table_takes_8_100_000_forwards(self, table1: Plan) -> None:
        setup = student(table1, "kd-dense-teacher").setup
        assert table_forwards(setup) == 8_100_000
        price = table_pflops(setup, paper_macs(teacher_setup(table1)))
        assert price == pytest.approx(8_100_000 * PAPER_MACS["resnet18"] / 1e15)

    def test_calling_the_teacher_takes_a_forward_an_image_and_epoch(self, table1: Plan) -> None:
        setup = student(table1, "kd-dense-teacher").setup
        assert teacher_call_pflops(setup, Macs(1000, {})) == pytest.approx(1000 * 8e6 / 1e15)

    def test_a_level_is_training_and_measuring(self, table1: Plan) -> None:
        price = level_pflops_executed(student(table1, "vanilla"), paper_macs)
        measuring = 60_000 * PAPER_MACS["vgg-like"] / 1e15
        assert price == pytest.approx(STUDENT_TRAINING + measuring)

    def test_a_level_that_reads_a_table_does_not_pay_for_it(self, table1: Plan) -> None:
        distilled = level_pflops_executed(student(table1, "kd-pruned-teacher"), paper_macs)
        plain = level_pflops_executed(student(table1, "vanilla"), paper_macs)
        assert distilled == pytest.approx(plain)

    def test_a_level_that_calls_its_teacher_pays_for_each_call(self, tmp_path: Path) -> None:
        recipes = ["vanilla", "kd-dense-teacher"]
        plan = planned(tmp_path, {"recipes": recipes, "teacher.table": "never"})
        plain, distilled = (
            level_pflops_executed(student(plan, recipe), paper_macs) for recipe in recipes
        )
        calls = 862 * 4 * PAPER_MACS["vgg-like"] / 1e15
        assert distilled == pytest.approx(plain + calls)


def test_the_teachers_price_is_its_own_and_not_the_students(table1: Plan) -> None:
    cost = row_cost(table1, row_of(table1, "kd-dense-teacher"), paper_macs)
    assert cost.teacher_pflops_max == pytest.approx(TEACHER_TRAINING)
    assert cost.teacher_pflops_max > 2 * STUDENT_TRAINING
