"""Recorded steps: what surrounds the recording, which itself needs a GPU, is tested without one.

In place of a recording the step runs as it is on the recording's own inputs, which is what a
replay amounts to.
"""

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch
from networks import build_network
from samples import SETTINGS, WITH_ALL_OPTIONS
from torch import Tensor

from dsdctl.ml import graph
from dsdctl.ml.device import configure, own_stream
from dsdctl.ml.graph import Capture, GraphedStep, capture_on, cuda_graph
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.train import Epoch, Trainer
from dsdctl.ml.views import Normalization, ViewReader, Views

Function = Callable[[], None]


def faithful(function: Function) -> Function:
    """Like `cuda_graph`, which runs the function a few times before it records it."""
    function()
    function()
    return function


def unfaithful(function: Function) -> Function:
    def replay() -> None:
        function()
        function()

    return replay


def impossible(function: Function) -> Function:
    function()
    raise RuntimeError("operation not permitted when stream is capturing")


def images_and_labels() -> tuple[Tensor, Tensor]:
    """44 images: each epoch ends with a smaller batch."""
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (44, 8, 8, 1), generator=stream, dtype=torch.uint8)
    return images, torch.randint(0, 4, (44,), generator=stream)


def trained(
    settings: Settings, capture: Capture | None, device: str = "cpu"
) -> tuple[list[Epoch], dict[str, Tensor]]:
    images, labels = (tensor.to(device) for tensor in images_and_labels())
    reader = ViewReader(images, Normalization((0.4,), (0.3,)), Views(flip=True, crop=1))
    network = build_network("vgg-like", 1, 4, seed=0, depth=2, width=4, pool=2).to(device)
    trainer = Trainer(network, None, settings, capture=capture)
    epochs = [
        trainer.train_epoch(reader, labels, seed=0, level=0, epoch=epoch)
        for epoch in range(settings.epochs)
    ]
    return epochs, trainer.state()


@pytest.mark.parametrize("settings", [SETTINGS, WITH_ALL_OPTIONS], ids=["sgd", "all options"])
@pytest.mark.parametrize("capture", [faithful, unfaithful, impossible])
def test_training_ends_the_same_whatever_comes_of_the_recording(
    capture: Capture, settings: Settings
) -> None:
    assert_alike(trained(settings, capture), trained(settings, None))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("settings", [SETTINGS, WITH_ALL_OPTIONS], ids=["sgd", "all options"])
def test_a_gpu_replays_steps_whose_rate_changes(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    configure(torch.device("cuda"), 1)
    assert_alike(trained(settings, cuda_graph, "cuda"), trained(settings, None, "cuda"))
    assert "no CUDA graph" not in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_threads_record_and_replay_beside_each_other_to_the_same_bytes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each trains several networks, so that graphs are recorded while others run and are freed."""
    device, count = torch.device("cuda"), 4
    configure(device, 1)
    alone = trained(SETTINGS, None, "cuda")
    together = threading.Barrier(count)

    def train_several() -> list[tuple[list[Epoch], dict[str, Tensor]]]:
        configure(device, 1)
        together.wait()
        with own_stream(device):
            found = [trained(SETTINGS, cuda_graph, "cuda") for _ in range(5)]
            torch.cuda.current_stream().synchronize()
        return found

    with ThreadPoolExecutor(count) as threads:
        futures = [threads.submit(train_several) for _ in range(count)]
        results = [result for future in futures for result in future.result()]
    for result in results:
        assert_alike(result, alone)
    assert "no CUDA graph" not in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_each_thread_has_a_stream_of_its_own_and_keeps_it() -> None:
    device = torch.device("cuda")

    def stream() -> tuple[int, int]:
        numbers = []
        for _ in range(2):
            with own_stream(device):
                numbers.append(torch.cuda.current_stream().cuda_stream)
        return numbers[0], numbers[1]

    barrier = threading.Barrier(16, timeout=60)
    with ThreadPoolExecutor(16) as threads:
        futures = [threads.submit(lambda: (barrier.wait(), stream())[1]) for _ in range(16)]
        found = [future.result() for future in futures]
    assert all(first == second for first, second in found)
    assert len({first for first, _ in found}) == 16


class Graph:
    """Nothing but what is freed."""


def test_a_graph_is_freed_with_its_recording_but_not_while_another_is_recorded() -> None:
    for recording_another in (False, True):
        recorded = Graph()
        recording = graph._Recording(recorded)  # type: ignore[arg-type]
        held = weakref.ref(recorded)
        del recorded
        with graph._exclusive() if recording_another else nullcontext():
            del recording
            assert (held() is not None) == recording_another
        assert held() is None


def assert_alike(
    one: tuple[list[Epoch], dict[str, Tensor]], other: tuple[list[Epoch], dict[str, Tensor]]
) -> None:
    (recorded_epochs, recorded_state), (epochs, state) = one, other
    assert recorded_epochs == epochs
    assert recorded_state.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(recorded_state[name], tensor), name


class Counter:
    """A step that adds up the indices and views that it is given, and counts how it was run."""

    def __init__(self) -> None:
        self.total = torch.zeros((), dtype=torch.int64)
        self.runs = 0
        self.replays = 0

    def step(self, indices: Tensor, views: Tensor) -> None:
        self.runs += 1
        self.total += indices.sum() * 1000 + views.sum()

    def capture(self, function: Function) -> Function:
        def replay() -> None:
            self.replays += 1
            function()

        return replay

    def graphed(self, capture: Capture) -> GraphedStep:
        return GraphedStep(self.step, lambda: [self.total], 4, capture)


def test_full_batches_are_replayed_on_their_own_inputs() -> None:
    counter = Counter()
    graphed = counter.graphed(counter.capture)
    batches = [torch.randperm(50)[:size] for size in (4, 4, 4, 4, 2, 4, 4, 1)]
    for indices in batches:
        graphed(indices, indices + 1)
    expected = sum(int(b.sum()) * 1000 + int((b + 1).sum()) for b in batches)
    assert int(counter.total) == expected
    # The first replay is that of the recording; the first batch and the smaller ones are not.
    assert counter.replays == 1 + 4
    assert graphed.refused == ""


def test_a_step_that_diverges_is_recorded_too() -> None:
    weight = torch.ones(2)
    step = GraphedStep(
        lambda _i, _v: weight.mul_(torch.inf).sub_(torch.inf), lambda: [weight], 4, faithful
    )
    for _ in range(3):
        step(torch.arange(4), torch.arange(4))
    assert weight.isnan().all()
    assert step.refused == ""


@pytest.mark.parametrize(
    ("capture", "reason"),
    [(unfaithful, "gives other results"), (impossible, "not permitted when stream is capturing")],
)
def test_a_refused_recording_is_given_up_for_good_and_says_why(
    capture: Capture, reason: str
) -> None:
    counter = Counter()
    graphed = counter.graphed(capture)
    for _ in range(3):
        graphed(torch.arange(4), torch.arange(4))
    tried = counter.runs
    assert reason in graphed.refused
    assert int(counter.total) == 3 * 6006
    graphed(torch.arange(4), torch.arange(4))
    assert counter.runs == tried + 1


def test_steps_are_recorded_on_gpus_alone() -> None:
    assert capture_on(torch.device("cpu")) is None
    assert capture_on(torch.device("cuda")) is not None


@pytest.mark.parametrize("capture", [None, faithful])
def test_nothing_of_a_level_outlives_its_trainer(capture: Capture | None) -> None:
    images, labels = images_and_labels()
    reader = ViewReader(images, Normalization((0.4,), (0.3,)), Views())
    network = build_network("mlp", 1, 4, seed=0, image_size=(8, 8), hidden=(4,))
    trainer = Trainer(network, None, SETTINGS, capture=capture)
    trainer.train_epoch(reader, labels, seed=0, level=0, epoch=0)
    held = [weakref.ref(trainer), weakref.ref(network), weakref.ref(reader)]
    gc.disable()
    try:
        del trainer, network, reader
        assert [ref() for ref in held] == [None, None, None]
    finally:
        gc.enable()
