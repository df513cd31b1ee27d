"""The wiring found by tracing is the one a person would write down."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smdl_flower import models
from smdl_flower.errors import NotComparableError
from smdl_flower.fingerprint.wiring import Wiring
from smdl_flower.models import ModelSpec


def wiring(name: str, channels: int = 1, size: int = 28) -> Wiring:
    return Wiring.of(models.build(ModelSpec(name, channels, 10, size), seed=0))


def of_space(found: Wiring, tensor: str, axis: int) -> set[tuple[str, int]]:
    space = found.space_of(tensor, axis)
    assert space is not None
    return {(s.tensor, s.axis) for s in found.of_space(space)}


class Net(nn.Module):
    """A network of two named layers and a way to use them."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.way = way
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, images: Tensor) -> Tensor:
        return self.way(self, images)


def test_a_flattened_channel_owns_a_block_of_columns() -> None:
    found = wiring("cnn")
    assert found.pinned == {0}
    assert of_space(found, "features.6.weight", 0) == {
        ("features.6.weight", 0),
        ("features.6.bias", 0),
        ("hidden.weight", 1),
    }
    assert found.sizes[3] == 64  # hidden.weight has 576 columns


def test_additions_tie_the_residual_stream() -> None:
    found = wiring("resnet8")
    assert of_space(found, "block2.shortcut.0.weight", 0) == {
        ("block2.shortcut.0.weight", 0),
        ("block2.body.3.weight", 0),
        ("block2.body.4.weight", 0),
        ("block2.body.4.bias", 0),
        ("block3.body.0.weight", 1),
        ("block3.shortcut.0.weight", 1),
    }


def test_a_norm_has_its_inputs_channels_and_a_scale_of_its_own() -> None:
    sides = {(s.tensor, s.axis): s for s in wiring("resnet8").sides}
    conv, norm = sides["block1.body.0.weight", 0], sides["block1.body.1.weight", 0]
    reader = sides["block1.body.3.weight", 1]
    assert conv.space == norm.space == reader.space
    assert conv.scale != norm.scale == reader.scale
    assert norm.makes
    assert not reader.makes


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "mobilenet_v3_small"])
def test_all_tensors_of_torchvision_networks_are_wired(name: str) -> None:
    module = models.build(ModelSpec(name, 3, 10, 64), seed=0)
    found = Wiring.of(module)
    assert {s.tensor for s in found.sides} == set(module.state_dict())


@pytest.mark.parametrize(
    "way",
    [
        lambda net, x: torch.cat([net.one(x), net.one(x)], 1),
        lambda net, x: net.one(x).permute(0, 2, 3, 1),
        lambda net, x: net.one(x) if x.sum() > 0 else x,
        lambda net, x: net.grouped(net.one(x)),
        lambda net, x: net.two(net.one(x)) + net.one(x),
        lambda net, x: net.odd(torch.flatten(net.one(x), 1)),
        lambda net, x: net.three(x, x),
    ],
    ids=["cat", "permute", "branch", "grouped", "widths", "columns", "bilinear"],
)
def test_what_no_rule_covers_is_refused(way: Callable[[Any, Tensor], Tensor]) -> None:
    net = Net(
        way,
        one=nn.Conv2d(1, 4, 3),
        two=nn.Conv2d(4, 6, 3),
        grouped=nn.Conv2d(4, 4, 3, groups=2),
        odd=nn.Linear(7, 2),
        three=nn.Bilinear(4, 4, 2),
    )
    with pytest.raises(NotComparableError):
        Wiring.of(net)


def test_a_layer_used_twice_has_the_same_channels_before_and_behind() -> None:
    net = Net(
        lambda net, x: net.two(net.two(net.one(x))),
        one=nn.Conv2d(1, 4, 3, padding=1),
        two=nn.Conv2d(4, 4, 3, padding=1),
    )
    found = Wiring.of(net)
    assert found.space_of("two.weight", 0) == found.space_of("two.weight", 1)
    assert found.space_of("one.weight", 0) == found.space_of("two.weight", 0)


def test_gates_and_one_filter_per_channel_keep_the_channels() -> None:
    net = Net(
        lambda net, x: (
            net.each(net.one(x)) * torch.sigmoid(net.gate(net.one(x).mean((2, 3), True)))
        ),
        one=nn.Conv2d(1, 4, 3, padding=1),
        each=nn.Conv2d(4, 4, 3, padding=1, groups=4),
        gate=nn.Conv2d(4, 4, 1),
    )
    found = Wiring.of(net)
    space = found.space_of("one.weight", 0)
    assert found.space_of("each.weight", 0) == space
    assert found.space_of("gate.weight", 0) == space
    assert found.space_of("each.weight", 1) is None
