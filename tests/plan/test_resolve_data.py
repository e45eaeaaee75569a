"""From spec files to rows: label noise, augmentation, and where data lie."""

from pathlib import Path
from typing import Any

import pytest
from builders import line_of, only_problem, spec_data, write
from resolving import DENSE, only_row, teacher_source

from dsdctl.plan.resolve import resolve
from dsdctl.spec.views import Augment


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
