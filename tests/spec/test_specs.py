"""The specs that come along: what they plan, what they share, and the smallest of them run."""

import shutil
import socket
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archives import Cifar, write_flowers, write_human_labels
from builders import write
from tiny import ROOT, Dsdctl

from dsdctl.plan.plan import Plan, make_plan
from dsdctl.plan.resolve import resolve, resolve_all
from dsdctl.spec.networks.vgg import VGGLike
from dsdctl.spec.yaml import read_document
from dsdctl.store.store import Store
from dsdctl.worker.level import LevelTask, WorkerConfig, run_task

SPECS = sorted(file.relative_to(ROOT / "specs") for file in (ROOT / "specs").rglob("*.yaml"))


def plan_of(*names: str) -> Plan:
    return make_plan(resolve_all([ROOT / "specs" / f"{name}.yaml" for name in names]))


def experiments(plan: Plan) -> Counter[tuple[str, ...]]:
    """How many trajectories each set of specs reads together."""
    readers = ({use.experiment for use in plan.all_uses(t)} for t in plan.trajectories.values())
    return Counter(tuple(sorted(names)) for names in readers)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The specs beside black images, in the shapes that docs/small_cifar10.py makes."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("specs", "recipes"):
        shutil.copytree(ROOT / name, folder / name)
    arrays = {f"x_{part}": np.zeros((2000, 16, 16, 3), np.uint8) for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(2000) % 10 for part in ("train", "test")}
    (folder / "data").mkdir()
    np.savez_compressed(folder / "data" / "cifar10-small.npz", **arrays)
    return folder


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_spec_is_planned_without_its_data(
    spec: Path, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a plan reads no data from the network")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = resolve(checkout / "specs" / spec)
    assert found.experiment.experiment == "-".join(spec.with_suffix("").parts)
    plan = make_plan([found])
    assert len(plan.rows) == len(found.experiment.recipes) * len(found.variants)
    assert plan.trajectories
    assert list(tmp_path.iterdir()) == []


def test_figure_2_trains_the_teachers_of_figure_5_and_table_1() -> None:
    plan = plan_of("figure2", "figure5", "table1")
    assert experiments(plan) == {
        # Six cells, of which seed 0 teaches; Table 1 is one of them.
        ("figure2",): 6 * 2,
        ("figure2", "figure5"): 5,
        ("figure2", "figure5", "table1"): 1,
        # Six cells of three recipes and seeds; those of one are Table 1's students.
        ("figure5",): 5 * 9,
        ("figure5", "table1"): 9,
    }
    taught = [t for t in plan.trajectories.values() if t.students]
    assert {(t.setup.network.arch, t.seed, *t.roles) for t in taught} == {
        ("resnet18", 0, "student", "teacher")
    }


@pytest.mark.parametrize("name", ["figure3", "figure4"])
def test_figures_3_and_4_read_trajectories_of_figure_2(name: str) -> None:
    shared = experiments(plan_of("figure2", name))[("figure2", name)]
    # Figure 3 retrains its three seeds from the last weights, figure 4 has one teacher.
    assert shared == {"figure3": 3, "figure4": 1}[name]


def test_the_ways_to_retrain_of_figure_3_share_their_dense_networks() -> None:
    plan = plan_of("figure3")
    names = [name for t in plan.trajectories.values() for name in t.level_names()]
    assert (len(names), len(set(names))) == (12 * 30, 3 + 12 * 29)


def test_the_extended_table_adds_a_baseline_and_a_control_to_table_1() -> None:
    counts = experiments(plan_of("table1", "table1-extended"))
    assert counts == {("table1", "table1-extended"): 10, ("table1-extended",): 6}


def test_table_1_differs_from_what_is_published_in_the_students_warm_up_alone() -> None:
    ours, published = (plan_of(name) for name in ("table1", "table1-as-published"))
    for row, other in zip(ours.rows, published.rows, strict=True):
        schedule = row.row.student.training.schedule
        assert schedule.warmup == 2
        training = row.row.student.training.model_copy(
            update={"schedule": schedule.model_copy(update={"warmup": 0})}
        )
        assert replace(row.row.student, training=training) == other.row.student
        assert row.teachers == other.teachers  # the very same trajectories
    (spec,), (warned,) = ours.specs, published.specs
    assert "two epochs" in spec.experiment.deviations[0]
    assert warned.experiment.deviations == spec.experiment.deviations[1:]
    assert warned.experiment.reference == spec.experiment.reference
    assert "diverges" in warned.experiment.warning and not spec.experiment.warning


def test_the_neighbouring_studies_are_those_of_their_authors(checkout: Path) -> None:
    """By what their code says, as the specs name it."""
    he, vit = (resolve(ROOT / "specs" / f"{name}.yaml") for name in ("he2022", "vit"))
    setups = [row.student for row in he.rows]
    assert {r.pruning.criterion for r in setups} == {"magnitude", "random", "gradient"}
    for setup in setups:
        assert setup.ignored_layers == ("classifier",)
        assert setup.rewind_iterations == 1000
        assert setup.images.noise.kind == "symmetric-all"
        assert setup.pruning.gradient_sample in (None, 128)
    for setup in (row.student for row in vit.rows):
        assert setup.levels == 35
        assert (setup.training.optimizer.kind, setup.training.schedule.kind) == (
            "adamw",
            "cosine",
        )
    twins = [resolve(checkout / "specs/small" / f"{name}.yaml") for name in ("he2022", "vit")]
    for twin, original in zip(twins, (he, vit), strict=True):
        assert {row.student.network.arch for row in twin.rows} == {
            row.student.network.arch for row in original.rows
        }


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_student_that_diverges_as_published_is_warmed_up_or_warned_of(
    spec: Path, checkout: Path
) -> None:
    """One whose pooled map is larger than what it pools, at the paper's rate."""
    found = resolve(checkout / "specs" / spec)
    for row in found.rows:
        network, training = row.student.network, row.student.training
        if isinstance(network, VGGLike) and network.pool == 7 and training.optimizer.lr >= 0.1:
            assert training.schedule.warmup == 2 or found.experiment.warning
            assert (
                row.teacher_source is None or not row.teacher_source.setup.training.schedule.warmup
            )


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_no_spec_uploads_anything_unasked(spec: Path, checkout: Path) -> None:
    wandb = resolve(checkout / "specs" / spec).experiment.tracking.wandb
    assert wandb is None or wandb.mode in ("offline", "disabled")


@pytest.mark.long
@pytest.mark.usefixtures("one_deterministic_thread")
@pytest.mark.parametrize("name", ["figure2", "cifar100n", "flowers102"])
def test_a_spec_trains_on_its_data_set_in_its_own_format(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch of the first level of a trajectory, on a few random images."""
    if name == "flowers102":
        write_flowers(monkeypatch, tmp_path, 60)
    else:
        written = Cifar(tmp_path, "cifar100")
        written.publish(monkeypatch)
        write_human_labels(monkeypatch, tmp_path, "cifar100n", written.train_labels)
    data = read_document(ROOT / "specs" / f"{name}.yaml").data
    data["dataset"]["root"] = str(tmp_path)
    data["training"] |= {"epochs": 1, "schedule": {}}
    *_, trajectory = make_plan([resolve(write(tmp_path / "spec.yaml", data))]).trajectories.values()
    identity = trajectory.level_identity(0, None, None)
    store = tmp_path / "store"
    Store(store).open_for_writing()
    place = WorkerConfig(store=str(store), device="cpu")
    level = run_task(LevelTask(identity=identity, dataset_path=str(tmp_path)), place).level
    assert level is not None and level.measured is not None
    assert level.measured.flip_rate > 0
    assert level.measured.entropy_bits > 0


@pytest.mark.long
@pytest.mark.parametrize("name", ["he2022", "vit"])
def test_a_neighbouring_twin_runs(name: str, checkout: Path, dsdctl: Dsdctl) -> None:
    """Of one epoch and a round, on random images."""
    data = read_document(checkout / "specs" / "small" / f"{name}.yaml").data
    data["training"] |= {"epochs": 1, "schedule": {}}
    data["pruning"] |= {"levels": 1}
    if name == "he2022":
        data["pruning"]["retrain"] = {"mode": "rewind", "iteration": 1}
    images = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), np.uint8)
    arrays = {f"x_{part}": images for part in ("train", "test")}
    arrays |= {f"y_{part}": np.arange(300) % 10 for part in ("train", "test")}
    np.savez(checkout / f"{name}.npz", **arrays)
    data["dataset"]["file"] = str(checkout / f"{name}.npz")
    done = dsdctl("run", write(checkout / f"{name}.yaml", data), "--jobs", 1)
    assert done.returncode == 0, done.stderr


def test_the_smoke_spec_runs_to_its_end(dsdctl: Dsdctl) -> None:
    done = dsdctl("run", ROOT / "specs" / "smoke.yaml", "--jobs", 1)
    assert done.returncode == 0, done.stderr  # which a comparison that is not complete has not
    rows = [line.split()[0] for line in done.stdout.splitlines() if "x" in line.split()[1:2]]
    assert rows[:3] == ["early-stop", "kd-dense-teacher", "kd-pruned-teacher"]
    # Three students and a teacher of four levels each.
    assert "[16/16]" in done.stderr
