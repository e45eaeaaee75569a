"""Inspecting a user's own network: build it, run it on images of its size, count its MACs.

Whatever goes wrong is an InputError with a reason; if the user's code fails, with file and line.
"""

import copy
import math
import random
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from dsdctl.errors import DsdctlError, InputError
from dsdctl.ml.entropy import ActivationCounter
from dsdctl.ml.macs import PRODUCTS, count_macs
from dsdctl.ml.masks import prunable_weights
from dsdctl.ml.networks.own import build_own, seeded_training
from dsdctl.own.inspection import Inspection, Question
from dsdctl.own.load import load, raised_at

Result = TypeVar("Result")


def inspect(question: Question) -> Inspection:
    """Build the network and describe it. Raises InputError if it cannot be used."""
    network = _built(question)
    _check_tensors(network, _built(question))
    layers = {name: weight.numel() for name, weight in prunable_weights(network).items()}
    if not layers:
        raise InputError("it has no Conv2d or Linear layer, so that there is nothing to prune")
    for size in question.sizes:
        _check_logits(question, network, size)
    activations, draws = _observed(question, network)
    height, width = question.sizes[0]
    count = _tried(question, lambda: count_macs(network, question.channels, height, width))
    return Inspection(
        layers={name.removesuffix(".weight"): weights for name, weights in layers.items()},
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        has_batchnorm=_needs_several(question, network),
        activations=activations,
        draws=draws,
        macs=count.total,
        macs_per_layer=count.per_layer,
        uncounted=tuple(dict.fromkeys(PRODUCTS[name] for name in count.left_out)),
    )


def _tried(question: Question, call: Callable[[], Result], before: str = "") -> Result:
    """The result of a call into the user's code. Raises InputError if it raises."""
    try:
        return call()
    except DsdctlError as error:
        raise InputError(before + str(error)) from error
    except Exception as error:
        raise InputError(before + raised_at(error, question.source)) from error


def _built(question: Question) -> nn.Module:
    def build() -> nn.Module:
        make = load(question.source)
        channels, classes = question.channels, question.classes
        return build_own(make, channels, classes, question.network.options, seed=0)

    return _tried(question, build)


def _check_tensors(network: nn.Module, again: nn.Module) -> None:
    """Its weights must be plain parameters, its tensors distinct, and a seed must determine them.

    `again` is the same network, built once more.
    """
    for name, weight in prunable_weights(network).items():
        if not isinstance(weight, nn.Parameter):
            raise InputError(f"{name} is computed from others (allowed: a plain parameter)")
    tensors = network.state_dict()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):  # what get_extra_state returns
            raise InputError(
                f"{name} in its state_dict is a {type(tensor).__name__} (allowed: tensors alone)"
            )
    places: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() and places.setdefault(tensor.data_ptr(), name) != name:
            raise InputError(
                f"{places[tensor.data_ptr()]} and {name} are one tensor (allowed: each has its own)"
            )
    for name, tensor in again.state_dict().items():
        if name not in tensors or not torch.equal(tensors[name], tensor):
            raise InputError(
                f"two networks of the same seed differ in {name} "
                "(allowed: initial weights from torch's generator alone)"
            )


def _check_logits(question: Question, network: nn.Module, size: tuple[int, int]) -> None:
    """It must turn images of this size (H, W) into logits, in both modes."""
    logits: object
    for training in (True, False):
        network.train(training)
        logits = _forward(question, network, _images(question, size))
        expected = (2, question.classes)
        if not isinstance(logits, Tensor):
            allowed = "a tensor of logits (B, K)"
            if hasattr(logits, "logits"):
                allowed += ", its `.logits` say"
            raise InputError(f"it gives a {type(logits).__name__} (allowed: {allowed})")
        if tuple(logits.shape) != expected:
            raise InputError(
                f"it gives {tuple(logits.shape)} for 2 images (allowed: logits (B, K) = {expected})"
            )
        if not bool(logits.isfinite().all()):
            raise InputError(f"it gives logits that are not finite in {_mode(network)}")


def _observed(question: Question, network: nn.Module) -> tuple[int, bool]:
    """How many ReLU and GELU modules are called, and whether training draws random numbers."""
    images = _images(question, question.sizes[0])
    network.eval()
    with ActivationCounter(network) as counter:
        one = _forward(question, network, images)
    if not torch.equal(one, _forward(question, network, images)):
        raise InputError("in eval mode it gives other logits for the same images")
    return len(counter.counts), _draws(question, network, images)


def _draws(question: Question, network: nn.Module, images: Tensor) -> bool:
    """Whether it draws from a global generator in training. Raises InputError if from another."""
    before = copy.deepcopy(network.state_dict())
    network.train()
    logits, draws = [], False
    for _ in range(2):
        network.load_state_dict(before)
        with seeded_training(0, 0, 0):
            states = _generator_states()
            logits.append(_forward(question, network, images))
            draws = _generator_states() != states
    if not torch.equal(*logits):
        raise InputError(
            "in training it gives other logits for the same images, weights, buffers and seed "
            "(allowed: what torch's, numpy's and Python's global generators draw)"
        )
    return draws


def _generator_states() -> tuple[object, ...]:
    """Of the global generators of torch, numpy and Python."""
    numpys = np.random.get_state(legacy=False)["state"]
    place = numpys["key"].tolist(), numpys["pos"]
    return torch.random.get_rng_state().tolist(), *place, random.getstate()


def _needs_several(question: Question, network: nn.Module) -> bool:
    """Whether it cannot be trained on a single image."""
    norms = nn.modules.batchnorm._BatchNorm
    if any(isinstance(module, norms) for module in network.modules()):
        return True
    try:
        network.train()
        with torch.no_grad():
            network(_images(question, question.sizes[0])[:1])
    except Exception:
        return True
    return False


@torch.no_grad()
def _forward(question: Question, network: nn.Module, images: Tensor) -> Tensor:
    shape = f"{question.channels} x {images.shape[2]} x {images.shape[3]}"
    before = f"it does not take images of {shape} in {_mode(network)}: "
    return _tried(question, lambda: network(images), before)  # type: ignore[no-any-return]


def _mode(network: nn.Module) -> str:
    return "training" if network.training else "eval mode"


def _images(question: Question, size: tuple[int, int]) -> Tensor:
    """Two images: float32 (2, C, H, W)."""
    count = 2 * question.channels * math.prod(size)
    return torch.linspace(-2, 2, count).view(2, question.channels, *size)
