"""How many images go through a network at once, against sizes counted by hand."""

import pytest
import torch
from networks import build_network

from dsdctl.ml import batches
from dsdctl.ml.batches import BATCH, inference_batch_size


def test_as_many_images_as_the_outputs_of_all_layers_leave_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build_network("vgg-like", 1, 3, seed=0, depth=1, width=4, pool=2).eval()
    image = torch.zeros(1, 1, 4, 4)
    # The image, two of convolution, ReLU and BatchNorm, the max-pool, the average pool, the logits.
    elements = 16 + 6 * 4 * 16 + 16 + 16 + 3
    for room, expected in ((7 * elements, 7), (7 * elements - 1, 6), (1, 1), (10**9, BATCH)):
        monkeypatch.setattr(batches, "ACTIVATION_BYTES", 4 * room)
        assert inference_batch_size(network, image) == expected
    assert not any(module._forward_hooks for module in network.modules())


def test_images_of_cifar_keep_their_batch_and_large_ones_do_not() -> None:
    network = build_network("vgg-like", 3, 10, seed=0, depth=5, width=32).eval()
    assert inference_batch_size(network, torch.zeros(1, 3, 32, 32)) == BATCH
    # Last bits depend on it: other numbers here are another numerics version.
    for side, expected in ((128, 167), (224, 54), (256, 41)):
        assert inference_batch_size(network, torch.zeros(1, 3, side, side)) == expected
