"""Cutting a network: its pieces together are the network, before a change and after it."""

import pytest
import torch
from torch import Tensor, nn

from smdl_flower import models
from smdl_flower.blackbox.tail import Change, Tail, cut
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

NETWORKS = [
    ("cnn", 1, 28, "hidden", {"head.weight", "head.bias"}),
    ("resnet8", 1, 28, "block3.body.3", {"block3.body.4", "head"}),
    ("resnet18", 3, 32, "layer4.1.conv2", {"layer4.1.bn2", "fc"}),
    ("mobilenet_v3_small", 3, 32, "classifier.0", {"classifier.3"}),
    ("squeezenet1_1", 3, 32, "features.12.expand3x3", {"classifier.1"}),
]


def changed_at_random(tail: Tail, directions: int) -> Change:
    change = tail.unchanged(directions)
    generator = torch.Generator().manual_seed(2)
    for tensor in (*change.layer(), *change.head.values()):
        tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return change


def some_basis(tail: Tail, directions: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    columns = torch.randn(tail.weight.shape[1], directions, generator=generator)
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis


@pytest.mark.parametrize(("name", "channels", "size", "layer", "head"), NETWORKS)
def test_the_pieces_are_the_network_also_after_a_change(name, channels, size, layer, head):
    network = models.build(ModelSpec(name, channels, 10, size), seed=1)
    images = torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(1))
    tail = cut(network)
    basis = some_basis(tail, 5)
    assert tail.name == layer
    assert all(n.startswith(tuple(head)) for n in tail.parameters)
    assert {n for n in network.state_dict() if n.startswith(tuple(head))} == set(tail.parameters)
    features = tail.features(images, basis)
    with torch.no_grad():
        assert torch.allclose(tail.logits(tail.unchanged(5), features), network(images), atol=1e-5)
    change = changed_at_random(tail, 5)
    base: Weights = models.to_weights(network)
    other = {**base, **tail.changed(base, change, basis)}
    whole = models.from_weights(ModelSpec(name, channels, 10, size), other)
    with torch.no_grad():
        expected = whole(images)
        assert torch.allclose(tail.logits(change, features), expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(network(images), expected, atol=0.01)
    assert all((base[n] == t).all() for n, t in models.to_weights(network).items())


@pytest.mark.parametrize("name", ["cnn", "resnet8"])
def test_energy_is_that_of_the_layers_input_as_the_layer_sees_it(name):
    network = models.build(ModelSpec(name, 1, 10, 28), seed=1)
    tail = cut(network)
    images = torch.randn(130, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    energy = tail.energy(images)
    outputs = []
    hook = network.get_submodule(tail.name).register_forward_hook(
        lambda layer, _, out: outputs.append(out if layer.bias is None else out - layer.bias)
    )
    with torch.no_grad():
        network(images)
    hook.remove()
    # The sum of squares of what a row gives is the energy in that row's direction.
    rows = tail.weight.double()
    given = torch.cat(outputs).transpose(0, 1).flatten(1).double()
    assert torch.allclose((rows @ energy * rows).sum(1), given.square().sum(1), rtol=1e-3)


def test_a_network_of_one_layer_is_taught_in_that():
    tail = cut(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    assert tail.name == "1"
    assert tail.parameters == {}


class Shared(nn.Module):
    """One layer is run twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(15, 15)
        self.other = nn.Linear(15, 15)
        self.last = nn.Linear(15, 4)

    def forward(self, images):
        features = self.layer(torch.relu(self.other(torch.relu(self.layer(images)))))
        return self.last(features) + self.last.bias


def test_a_layer_that_is_run_twice_is_left_alone():
    network = Shared()
    tail, images = cut(network), torch.ones(1, 15)
    assert tail.name == "other"
    assert not any(name.startswith("layer") for name in tail.parameters)
    features = tail.features(images, some_basis(tail, 3))
    assert torch.allclose(tail.logits(tail.unchanged(3), features), network(images))


class Measuring(nn.Module):
    """The last layers are given the number of images."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 2)])

    def forward(self, images):
        count = images.size(0)
        return self.layers[1](torch.relu(self.layers[0](images)).reshape(count, 4))


def test_a_network_whose_pieces_share_more_than_images_is_refused():
    tail = cut(Measuring())
    with pytest.raises(ConfigError, match=r"fingerprint\.queries.*batches"):
        tail.features(torch.ones(3, 4), some_basis(tail, 2))


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, images):
        return self.layer(images) if images.sum() > 0 else images


@pytest.mark.parametrize(("network", "reason"), [(Untraceable(), "traced"), (nn.ReLU(), "layer")])
def test_what_cannot_be_taught_is_refused(network, reason):
    with pytest.raises(ConfigError, match=rf"fingerprint\.queries.*{reason}"):
        cut(network)
