"""What a GPU computes, beside the same on the CPU."""

from pathlib import Path
from typing import Any, get_args

import torch

from dsdctl.bench.cases import case_network
from dsdctl.bench.results import CaseName
from dsdctl.ml.device import configure, precision
from dsdctl.ml.entropy import ActivationCounter
from dsdctl.ml.macs import count_macs
from dsdctl.ml.masks import dense_masks, prunable_weights, remove_lowest
from dsdctl.ml.scores import magnitude_scores
from dsdctl.ml.teacher import build_table, cached_logits, direct_logits
from dsdctl.ml.views import Batch, ViewReader, Views

from .gradients import KINDS, distance, gradient, on_all_cores
from .training import NORMALIZATION, PRECISIONS, Images, network, side_and_batch

SUMS = 1e-4
"""Of fp32 logits: sums of up to 4,608 products in twenty layers, each sum off by less than 2^-24
times their root, leave 2e-5; five times that is allowed."""

FLIPS = 1e-4
"""fp32 turns about one ReLU in a million on or off; a hundred times that is allowed."""


def allowed(fp32: float, bf16: float, *, smooth: bool = False) -> dict[str, float]:
    """How far gradients may be off, where other code's of the same are off by `fp32` and `bf16`.

    Two ways to round bf16 are off by the same order. In fp32 convolutions may be computed by other
    algorithms (Winograd's is off by ten times as much) and in longer sums, which stays far below
    tf32, that is off by eight thousand times as much; and tf32, which rounds eight times as finely
    as bf16, stays below that. Rounding turns ReLUs on and off, unless they are `smooth`, each with
    a whole unit's gradient: a share of them that grows as one rounding does, and so a root of that
    of the gradient. In fp32 these are few, and other code may happen to turn none.
    """
    turned = 0.0 if smooth else bf16 * (2.0**-24 / 2.0**-8) ** 0.5
    return {
        "fp32": max(64 * fp32 if smooth else 8 * fp32, 16 * turned),
        "tf32": bf16,
        "bf16": 2 * bf16,
    }


def gradients_against_float64(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """||g - g64|| / ||g64||, for the networks as they are and with SiLU in place of ReLU.

    Bounded by what the CPU's own are off.
    """
    configure(torch.device(device), 1)
    found: dict[str, Any] = {}
    for kind in KINDS if not tiny else KINDS[:1]:
        for smooth in (False, True):
            exact, fp32, bf16 = (
                on_all_cores(kind, name, tiny, smooth=smooth)
                for name in ("float64", "fp32", "bf16")
            )
            on_cpu = {"fp32": distance(fp32, exact), "bf16": distance(bf16, exact)}
            bounds = allowed(**on_cpu, smooth=smooth)
            for name in PRECISIONS:
                off = distance(gradient(kind, name, device, tiny, smooth=smooth), exact)
                found[f"{kind}{' smooth' if smooth else ''} {name}"] = {
                    "off": off,
                    "allowed": bounds[name],
                    "cpu": on_cpu.get(name),
                }
    return {"holds": all(one["off"] <= one["allowed"] for one in found.values()), **found}


def masks(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """Three rounds of magnitude pruning of the same weights."""
    weights = prunable_weights(network("student", tiny))
    there = {name: weight.to(device) for name, weight in weights.items()}
    here_masks, there_masks = dense_masks(weights), dense_masks(there)
    differing = []
    for _ in range(3):
        removed = sum(int(mask.count_nonzero()) for mask in here_masks.values()) // 5
        here_masks = remove_lowest(magnitude_scores(weights), here_masks, removed)
        there_masks = remove_lowest(magnitude_scores(there), there_masks, removed)
        pairs = {name: (here_masks[name], there_masks[name].cpu()) for name in here_masks}
        differing += [name for name, pair in pairs.items() if not torch.equal(*pair)]
    return {"holds": not differing, "differing": differing}


@torch.no_grad()
def entropy(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """How often each unit is on, and the bits of each layer, fp32, the same weights and images."""
    side, batch = side_and_batch(tiny)
    images = Images.made(2 * batch, side, "cpu")
    model = network("student", tiny).eval()
    counted = []
    for place in ("cpu", device):
        model = model.to(place)
        with precision("fp32", torch.device(place)), ActivationCounter(model) as counter:
            model(NORMALIZATION(images.pixels.to(place)))
        counts = {name: count.cpu() for name, count in counter.counts.items()}
        counted.append((counts, counter.layer_bits()))
    (here, bits), (there, bits_there) = counted
    flips = sum(int((here[name] - there[name]).abs().sum()) for name in here)
    share = flips / (len(images.labels) * sum(count.numel() for count in here.values()))
    off = max(abs(bits[name] - bits_there[name]) for name in bits)
    details = {"share_of_states_that_differ": share, "allowed": FLIPS, "bits_off_at_most": off}
    return {"holds": share <= FLIPS and off <= 1e-3, **details}


@torch.no_grad()
def table_lookup(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """Logits looked up, those of the teacher called, and the CPU's table, fp32."""
    configure(torch.device(device), 1)
    side, batch = side_and_batch(tiny)
    images = Images.made(batch, side, device)
    views = Views(flip=True)
    reader = ViewReader(images.pixels, NORMALIZATION, views)
    teacher = network("teacher", tiny).to(device).eval()
    count = len(images.labels)
    table = build_table(teacher, reader, count, "fp32", torch.device(device))
    indices = torch.arange(count, device=device).flip(0)
    chosen = indices % views.count
    with precision("fp32", torch.device(device)):
        asked = Batch(reader(indices, chosen), images.labels[indices], indices, chosen)
        called_logits = direct_logits(teacher)(asked)
    found = cached_logits(table.to(device))(asked)
    here = ViewReader(images.pixels.cpu(), NORMALIZATION, views)
    expected = build_table(teacher.cpu(), here, count, "fp32", torch.device("cpu"))
    details = {
        "looked_up_from_called": distance(found.double(), called_logits.double()),
        "table_from_cpu": distance(table.double(), expected.double()),
    }
    return {"holds": max(details.values()) <= SUMS, "allowed": SUMS, **details}


def macs(device: str, tiny: bool, folder: Path) -> dict[str, Any]:
    """MACs of a network that has been on the device and of one that has not."""
    found: dict[str, Any] = {}
    names: tuple[CaseName, ...] = get_args(CaseName)
    for case in names if not tiny else names[:1]:
        been = case_network(case).to(device).cpu()
        size = (1, 8, 8) if case == "digits-level" else (3, 32, 32)
        found[case] = (count_macs(been, *size)[0], count_macs(case_network(case), *size)[0])
    return {"holds": all(one == other for one, other in found.values()), **found}
