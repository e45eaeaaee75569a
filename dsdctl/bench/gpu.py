"""What `dsdctl doctor` tries on a GPU: whether steps are recorded and repeat, and how fast."""

import subprocess
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dsdctl.bench.cases import Job, case_network
from dsdctl.bench.ours import prepare
from dsdctl.errors import describe_os_error
from dsdctl.ml import gpu
from dsdctl.ml.device import configure
from dsdctl.ml.graph import Capture, capture_on
from dsdctl.ml.optimizers import Settings
from dsdctl.ml.train import Trainer
from dsdctl.ml.views import Normalization, ViewReader, Views
from dsdctl.system.devices import Device
from dsdctl.units import size

SECONDS = 5.0
"""That the speed check trains."""

BATCH, BATCHES = 32, 4
"""Of the little training that is recorded."""

Line = tuple[str, bool]
"""What was found, and whether it is good news."""


def examine_gpu(index: int) -> Iterator[Line]:
    """Yield what there is to say of one GPU; what goes wrong on it is one more line."""
    name = f"GPU {index}"
    try:
        with torch.cuda.device(index):
            yield f"{name}: {_described()}", True
            yield f"{name}: Triton's kernels are {gpu.said()}", True
            configure(torch.device("cuda"), 1)
            for line, good in (recorded("cuda"), repeats("cuda"), speed("cuda")):
                yield f"{name}: {line}", good
    except Exception as error:
        yield f"{name}: {describe_os_error(error) or error}", False


def _described() -> str:
    """The current GPU's name, memory, compute capability and driver."""
    free, total = torch.cuda.mem_get_info()
    capability = ".".join(map(str, torch.cuda.get_device_capability()))
    return (
        f"{torch.cuda.get_device_name()}, {size(total)} of memory, {size(free)} free, "
        f"compute capability {capability}, driver {_driver()}, torch for CUDA {torch.version.cuda}"
    )


def _driver() -> str:
    """The version of the driver, which all GPUs share, as its own tool says it."""
    line = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown (no nvidia-smi)"
    return (done.stdout.splitlines() or ["unknown"])[0].strip()


class CountedCapture:
    """Records steps as ever, and keeps how often they are replayed and why they cannot be."""

    def __init__(self, capture: Capture):
        self.replays = 0
        self.reason = "the recorded step gives other results"
        self._capture = capture

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        try:
            replay = self._capture(function)
        except RuntimeError as error:
            self.reason = str(error).partition("\n")[0]
            raise

        def counted() -> None:
            self.replays += 1
            replay()

        return counted


def recorded(device: Device) -> Line:
    """Whether a step of the bench's student is replayed as one graph."""
    capture = capture_on(torch.device(device))
    if capture is None:
        return "steps are not recorded on such a device", True
    watched = CountedCapture(capture)
    _trained(device, watched)
    if watched.replays == BATCHES - 1:  # the first batch never is
        return "training steps are recorded and replayed as one graph", True
    return f"training steps are not recorded, which makes them slow: {watched.reason}", False


def repeats(device: Device) -> Line:
    """Whether a training that is done twice gives the same bytes."""
    one, other = (_trained(device, capture_on(torch.device(device))) for _ in range(2))
    if all(torch.equal(one[name], other[name]) for name in one):
        return "kernels are deterministic: a training done twice gave the same bytes", True
    return "kernels are NOT deterministic: a training done twice gave other bytes", False


def _trained(device: Device, capture: Capture | None) -> dict[str, Tensor]:
    """What a little training of the bench's student on random images ends with."""
    stream = torch.Generator().manual_seed(0)
    count = BATCH * BATCHES
    pixels = torch.randint(0, 256, (count, 32, 32, 3), generator=stream, dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,), generator=stream).to(device)
    normalization = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    reader = ViewReader(pixels.to(device), normalization, Views(flip=True, crop=4))
    settings = Settings(
        epochs=1, batch_size=BATCH, lr=0.01, momentum=0.9, weight_decay=1e-4, milestones=(),
        gamma=1.0, precision="bf16",
    )  # fmt: skip
    trainer = Trainer(case_network("student").to(device), None, settings, capture=capture)
    trainer.train_epoch(reader, labels, seed=0, level=0, epoch=0)
    return trainer.state()


def speed(device: Device, seconds: float = SECONDS) -> Line:
    """How many images a second the bench's student trains on, one trajectory, bf16."""
    batches = 200 if device == "cuda" else 1
    job = Job(
        side="ours", case="student", precision="bf16", device=device, threads=1, batches=batches,
        images=None,
    )  # fmt: skip
    work = prepare(job)
    work.run()
    images, started = 0, time.perf_counter()
    while images == 0 or time.perf_counter() - started < seconds:
        images += work.run()  # ends with a number that waits for the device
    rate = images / (time.perf_counter() - started)
    return f"the student of specs/table1.yaml trains on {rate:,.0f} images/s in bf16, alone", True
