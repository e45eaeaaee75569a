"""The MLP is a chain of Linear layers with ReLUs between them."""

import torch
import torch.nn.functional as F
from networks import build_network
from samples import in_float64, random_images


def test_is_linear_and_relu_for_each_hidden_layer_then_one_linear() -> None:
    network = in_float64(build_network("mlp", 2, 4, seed=0, image_size=(3, 5), hidden=(7, 6, 5)))
    images = random_images(3, 2, 3, 5).double()
    tensors = list(network.state_dict().values())
    features = images.reshape(3, 30)
    for weight, bias in zip(tensors[0:6:2], tensors[1:6:2], strict=True):
        features = F.relu(features @ weight.T + bias)
    torch.testing.assert_close(network(images), features @ tensors[6].T + tensors[7])
    channels_last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(network(channels_last), network(images))


def test_is_lenet_300_100_by_default() -> None:
    network = build_network("mlp", 1, 10, seed=0, image_size=(28, 28))
    assert sum(parameter.numel() for parameter in network.parameters()) == 266_610
