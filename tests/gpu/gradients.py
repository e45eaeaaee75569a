"""Gradients of the real networks for one batch, in any precision, on any device.

    python -m tests.gpu.gradients DEVICE tiny|real FILE

writes those of student and teacher in fp32, tf32 and bf16, so that processes with other kernels
can be compared; where kernels are off those of the CPU in float64 too.
"""

import sys
from typing import cast

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from dsdctl.ml.device import configure, precision
from dsdctl.ml.kernels.choice import kernel_mode
from dsdctl.system.devices import usable_cores

from .training import NORMALIZATION, PRECISIONS, Images, Kind, network, side_and_batch

KINDS: tuple[Kind, ...] = ("student", "teacher")
IMAGES = 64


def gradient(kind: Kind, name: str, device: str, tiny: bool, *, smooth: bool = False) -> Tensor:
    """Of the mean cross-entropy, all parameters in one: float64 (N,) on the CPU.

    `name`: a precision, or `float64`. With `smooth` each ReLU is a SiLU, so that no rounding turns
    one on or off, and with it the whole gradient of a unit.
    """
    side, batch = side_and_batch(tiny)
    images = Images.made(min(batch, IMAGES), side, device)
    model = network(kind, tiny)
    if smooth:
        _smoothen(model)
    model = model.to(device).train()
    batch_images = NORMALIZATION(images.pixels)
    if name == "float64":
        model, batch_images = model.double(), batch_images.double()
        logits = model(batch_images)
    else:
        with precision(name, torch.device(device)):
            logits = model(batch_images)
            loss = F.cross_entropy(logits.float(), images.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return _joined(model)
    F.cross_entropy(logits, images.labels).backward()  # type: ignore[no-untyped-call]
    return _joined(model)


def _joined(model: nn.Module) -> Tensor:
    parts = [cast(Tensor, parameter.grad).double().cpu() for parameter in model.parameters()]
    return torch.cat([part.flatten() for part in parts])


def _smoothen(model: nn.Module) -> None:
    for module in list(model.modules()):
        # Whoever is watched is computed module by module, and not by a kernel that knows ReLU only.
        module.register_forward_hook(lambda _module, _inputs, _output: None)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                module._modules[name] = smooth = nn.SiLU()
                smooth.register_forward_hook(lambda _module, _inputs, _output: None)


def on_all_cores(kind: Kind, name: str, tiny: bool, *, smooth: bool = False) -> Tensor:
    """The gradient as the CPU computes it with torch's own code."""
    threads = torch.get_num_threads()
    torch.set_num_threads(usable_cores())
    try:
        return gradient(kind, name, "cpu", tiny, smooth=smooth)
    finally:
        torch.set_num_threads(threads)


def distance(one: Tensor, other: Tensor) -> float:
    """||one - other|| / ||other||."""
    return float((one - other).norm() / other.norm())


def main() -> None:
    device, size, file = sys.argv[1:]
    configure(torch.device(device), 1)
    found = {
        f"{kind} {name}": gradient(kind, name, device, size == "tiny")
        for kind in KINDS
        for name in PRECISIONS
    }
    if kernel_mode() == "off":
        found |= {f"{k} float64": on_all_cores(k, "float64", size == "tiny") for k in KINDS}
    save_file(found, file)


if __name__ == "__main__":
    main()
