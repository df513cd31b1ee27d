"""What leaves a participant after a step."""

import copy

import pytest
import torch
from torch import nn

from smdl_flower.privacy.attacks.update import difference, flat, gradient, noised


@pytest.fixture
def model() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    return model


INPUTS = torch.linspace(-1, 1, 30).reshape(5, 6)
LABELS = torch.tensor([0, 1, 2, 0, 1])


def test_frozen_parameters_are_not_part_of_an_update(model):
    assert set(gradient(model, INPUTS, LABELS)) == {"2.weight", "2.bias"}


def test_the_difference_after_one_step_is_the_gradient_times_the_rate(model):
    def step(local, inputs, labels):
        nn.functional.cross_entropy(local(inputs), labels).backward()
        torch.optim.SGD([p for p in local.parameters() if p.requires_grad], 0.5).step()

    before = copy.deepcopy(model.state_dict())
    sent = difference(step)(model, INPUTS, LABELS)
    torch.testing.assert_close(flat(sent), 0.5 * flat(gradient(model, INPUTS, LABELS)))
    assert all(torch.equal(model.state_dict()[name], t) for name, t in before.items())


def test_noise_is_added_to_a_sum_of_gradients_each_no_longer_than_the_norm(model, generator):
    quiet = noised(0.0, 0.01, generator)(model, INPUTS[:1], LABELS[:1])
    assert float(flat(quiet).norm()) == pytest.approx(0.01, rel=1e-3)
    loud = torch.stack(
        [flat(noised(3.0, 0.01, generator)(model, INPUTS[:1], LABELS[:1])) for _ in range(400)]
    )
    # 400 x 15 values of standard deviation 0.03: its relative standard error is 1 / sqrt(12,000).
    assert float((loud - flat(quiet)).std()) == pytest.approx(0.03, rel=4 / 12_000**0.5)
