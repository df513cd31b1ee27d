"""Cutting a network: both pieces together are the network."""

import pytest
import torch
from torch import nn

from smdl_flower import models
from smdl_flower.blackbox.tail import cut
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec


@pytest.mark.parametrize(
    ("name", "channels", "size", "layers"),
    [
        ("cnn", 1, 28, ("hidden", "head")),
        ("resnet8", 1, 28, ("block3", "head")),
        ("resnet18", 3, 32, ("layer4.1", "fc")),
        ("mobilenet_v3_small", 3, 32, ("classifier",)),
        ("squeezenet1_1", 3, 32, ("features.12.expand", "classifier")),
    ],
)
def test_body_and_head_together_are_the_network(name, channels, size, layers):
    network = models.build(ModelSpec(name, channels, 10, size), seed=1)
    images = torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(1))
    tail = cut(network)
    with torch.no_grad():
        whole = network(images)
        split = tail.logits(tail.parameters, tail.features(images))
    assert torch.equal(whole, split)
    expected = {n for n in network.state_dict() if n.startswith(layers)}
    assert set(tail.parameters) == expected
    assert sum(p.numel() for p in tail.parameters.values() if p.dim() >= 2) >= 20_000


def test_other_parameters_of_the_head_change_the_answers_and_not_the_network():
    network = models.build(ModelSpec("cnn", 1, 10, 8), seed=1)
    tail, images = cut(network), torch.ones(2, 1, 8, 8)
    before = network(images).detach()
    other = {name: p + 1 for name, p in tail.parameters.items()}
    assert not torch.allclose(tail.logits(other, tail.features(images)), before)
    assert torch.equal(network(images), before)


def test_a_small_network_is_taught_as_a_whole():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    assert set(cut(network).parameters) == set(network.state_dict())


class Shared(nn.Module):
    """The last layer is the first one again."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(150, 150)
        self.other = nn.Linear(150, 150)

    def forward(self, images):
        return self.layer(torch.relu(self.other(torch.relu(self.layer(images)))))


def test_a_layer_that_the_body_shares_is_left_alone():
    network = Shared()
    tail = cut(network)
    features = tail.features(torch.ones(1, 150))
    assert torch.equal(tail.logits(tail.parameters, features), network(torch.ones(1, 150)))
    used_before = "layer.weight" not in tail.parameters
    whole = set(tail.parameters) == set(network.state_dict())
    assert used_before or whole


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, images):
        return self.layer(images) if images.sum() > 0 else images


@pytest.mark.parametrize(("network", "reason"), [(Untraceable(), "traced"), (nn.ReLU(), "weights")])
def test_what_cannot_be_taught_is_refused(network, reason):
    with pytest.raises(ConfigError, match=f"fingerprint.queries.*{reason}"):
        cut(network)
