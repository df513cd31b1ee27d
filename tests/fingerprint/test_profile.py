"""Profile: an inverse fourth root of the Fisher information, of mean square one."""

from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smdl_flower import models
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.profile import sensitivity_profile, uniform_profile
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


def small_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


@pytest.mark.parametrize("silent_inputs", [0, 150])
def test_the_profile_is_that_of_a_fisher_information_computed_by_hand(silent_inputs: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layer = nn.Linear(160, 5)
    keep = torch.ones(160)
    keep[:silent_inputs] = 0.0  # weights on silent inputs have no Fisher information: clipped

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, images: Tensor) -> Tensor:
            return cast(Tensor, self.layer(images * keep))

    layout = Layout.of(models.to_weights(Model()))
    profile = sensitivity_profile(Model(), layout, (160,), samples=50, seed=4)

    generator = torch.Generator().manual_seed(4)
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    fisher = np.zeros((5, 160))
    for _ in range(50):
        image = torch.randn(1, 160, generator=generator)
        chances = (image.double() * keep @ weight.T + bias).softmax(1)
        label = torch.multinomial(chances.float(), 1, generator=generator)
        error = chances.numpy()[0] - np.eye(5)[int(label)]
        fisher += np.square(np.outer(error, (image * keep).numpy()[0])) / 50
    expected = (fisher + 1e-3 * fisher.mean()) ** -0.25
    root_mean_square = np.sqrt(np.mean(expected**2))
    expected = np.minimum(expected, 4 * root_mean_square)
    expected /= np.sqrt(np.mean(expected**2))
    # float32 sums of 50 squares to 1e-6, and a fourth root divides relative errors by four.
    assert profile.reshape(5, 160) == pytest.approx(expected, rel=1e-5)


def test_a_profile_is_positive_of_mean_square_one_and_spares_no_weight(
    spec: ModelSpec, base: Weights
) -> None:
    layout = Layout.of(base)
    profile = sensitivity_profile(models.from_weights(spec, base), layout, (1, 28, 28), samples=20)
    assert profile.dtype == np.float32
    assert profile.shape == (layout.size,)
    assert (profile > 0).all()
    # float32 values to 6e-8 each.
    assert float(np.mean(np.square(profile, dtype=np.float64))) == pytest.approx(1, rel=2e-7)


def test_the_same_seed_gives_the_same_profile_and_another_seed_another() -> None:
    layout = Layout.of(models.to_weights(small_model()))
    first, again, other = (
        sensitivity_profile(small_model(), layout, (9,), samples=9, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_profile_leaves_model_gradients_and_random_state_as_they_were() -> None:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    sensitivity_profile(model, Layout.of(models.to_weights(model)), (9,), samples=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_that_no_weight_influences_gets_the_uniform_profile() -> None:
    model = small_model()

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, images: Tensor) -> Tensor:
            return cast(Tensor, self.inner(images) * 0.0)

    layout = Layout.of(models.to_weights(Constant()))
    profile = sensitivity_profile(Constant(), layout, (9,), samples=3)
    assert np.array_equal(profile, uniform_profile(layout))
    assert uniform_profile(layout).tolist() == [1.0] * (9 * 8 + 8 * 4)


def test_weights_that_matter_more_get_less_of_the_mark() -> None:
    model = small_model()
    with torch.no_grad():
        model[3].weight[:, 0] *= 20  # type: ignore[index]  # what hidden unit 0 says matters most
    layout = Layout.of(models.to_weights(model))
    profile = sensitivity_profile(model, layout, (9,), samples=200)
    hidden = profile[layout.tensors[0].where].reshape(8, 9)
    assert layout.tensors[0].name == "1.weight"
    assert hidden[0].mean() < np.median(hidden[1:].mean(axis=1))
