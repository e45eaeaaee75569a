"""bf16 copies of convolutions' weights give what autocast gives, one by one."""

import torch
from samples import random_images
from torch import nn
from torch.func import functional_call

from dsdctl.ml.casts import Casts
from dsdctl.ml.device import precision


def test_outputs_and_gradients_are_those_of_autocast_bit_for_bit() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(64, 2)
    ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, casts = random_images(2, 3, 4, 4), Casts(network)
    for _ in range(2):  # the second time of other weights
        with precision("bf16", images.device):
            expected = network(images)
            ours = functional_call(network, casts.refresh(), (images,))
        assert torch.equal(ours, expected)
        network.zero_grad()
        expected.float().square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
        network.zero_grad()
        ours.float().square().sum().backward()
        given = casts.gradients()
        assert set(given) == {"0.weight", "2.weight"}
        for name, parameter in network.named_parameters():
            gradient = given.get(name, parameter.grad)
            assert gradient is not None
            assert gradient.dtype == torch.float32
            assert torch.equal(gradient, gradients[name]), name
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1.5)
