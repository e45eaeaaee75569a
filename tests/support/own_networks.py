"""Specs with a network of one's own, planned and trained in this process."""

from pathlib import Path
from typing import Any

import torch
from builders import spec_data, write
from safetensors.torch import load_file

from dsdctl.own.inspection import Question
from dsdctl.plan.plan import Plan, make_plan
from dsdctl.plan.resolve import resolve
from dsdctl.plan.trajectory import Trajectory
from dsdctl.store.store import Store
from dsdctl.worker.inspection import inspect
from dsdctl.worker.tasks import LevelTask, WorkerConfig

HEADER = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"

NET = (
    HEADER
    + """
from blocks import block


class Net(nn.Module):
    def __init__(self, in_channels, classes, width=3):
        super().__init__()
        self.features = block(in_channels, width)
        self.head = nn.Linear(width, classes)

    def forward(self, images):
        return self.head(self.features(images).mean((2, 3)))
"""
)

BLOCKS = (
    HEADER
    + """
def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU())
"""
)


def write_net(folder: Path, text: str = NET) -> Path:
    write(folder / "blocks.py", BLOCKS)
    return write(folder / "nets.py", text)


def spec(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    own = {"student": {"arch": "nets.py:Net"}, "training.epochs": 1, "pruning.levels": 1}
    return write(folder / "spec.yaml", spec_data({**own, **(changes or {})}))


def planned(folder: Path, changes: dict[str, Any] | None = None) -> Plan:
    return make_plan([resolve(spec(folder, changes), inspect)])


def only(plan: Plan) -> Trajectory:
    (trajectory,) = plan.trajectories.values()
    return trajectory


def question(folder: Path, text: str, **options: Any) -> Question:
    write_net(folder, text)
    changes = {"student": {"arch": "nets.py:Net", "options": options}}
    own = only(make_plan([resolve(spec(folder, changes), lambda _: None)])).setup.own
    assert own is not None
    return own.question


def task(trajectory: Trajectory) -> LevelTask:
    identity = trajectory.level_identity(0, None, None)
    setup = trajectory.setup
    return LevelTask(identity=identity, dataset_path=".", source=setup.source, draws=setup.draws)


def place(folder: Path) -> WorkerConfig:
    Store(folder).open_for_writing()
    return WorkerConfig(store=str(folder), device="cpu")


def weights(store: Path) -> dict[str, torch.Tensor]:
    (file,) = store.glob("levels/*/*/weights.safetensors")
    return load_file(file)
