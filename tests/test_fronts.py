"""The public front: fitted to public images alone, complete in the state_dict, useful behind."""

from typing import Any

import numpy as np
import pytest
import torch

from smdl_flower import config, data, fronts, models, training
from smdl_flower.errors import ConfigError
from smdl_flower.models import ModelSpec
from smdl_flower.representation import Features, behind_front

SMALL = ModelSpec("scatter-linear", channels=1, classes=10, image_size=8)


@pytest.fixture(scope="module")
def model() -> Any:
    return models.build(SMALL, seed=0)


@pytest.fixture(scope="module")
def digits():
    flat = config.load_defaults(config.example_app_dir()) | {"data": "digits"}
    run = config.parse(flat)
    return data.load_shard(run.data, participant=0, seed=7), data.load_test(run.data)


def test_all_of_the_front_is_parameters_in_the_state_dict_and_a_thief_can_train_them(model):
    assert not list(model.buffers())
    assert all(p.requires_grad for p in model.parameters())
    assert {n for n in model.state_dict() if n.startswith(models.front_of(model))} == {
        "front.scattering.fine",
        "front.scattering.coarse",
        "front.scattering.average",
        "front.projection.weight",
        "front.projection.bias",
    }


def test_the_seed_changes_nothing_in_a_model_that_starts_at_zero(model):
    other = models.build(SMALL, seed=5)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_the_front_survives_a_trip_through_its_weights(model: Any) -> None:
    read: Any = models.from_weights(SMALL, models.to_weights(model))
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    assert torch.equal(read(images), model(images))
    assert torch.equal(read.front(images), model.front(images))


def test_the_projection_is_the_principal_components_of_the_public_images(model):
    """Against numpy's singular value decomposition, an independent way to the same subspace."""
    with torch.no_grad():
        features = model.front.scattering(fronts.public_images(1, 8)).flatten(1).double().numpy()
    mean = features.mean(0)
    _, _, rows = np.linalg.svd(features - mean, full_matrices=False)
    weight = model.front.projection.weight.detach().double().numpy()
    overlap = np.abs(np.sum(weight[:20] * rows[:20], axis=1))
    np.testing.assert_allclose(overlap, 1.0, atol=1e-3)
    bias = model.front.projection.bias.detach().numpy()
    np.testing.assert_allclose(bias, -weight @ mean, atol=1e-3)


def test_wavelets_are_blind_to_flat_images_and_the_window_keeps_their_mean():
    scattering = fronts.Scattering()
    for bank in (scattering.fine, scattering.coarse):
        np.testing.assert_allclose(bank.detach().sum((1, 2, 3)), 0.0, atol=1e-6)
    assert float(scattering.average.detach().sum()) == pytest.approx(1.0)


def test_a_stripe_excites_the_wavelet_across_it_most():
    """Vertical stripes of the fine wavelets' own frequency: direction 0 looks along the row."""
    columns = torch.arange(28.0) * 3 * torch.pi / 4
    image = columns.cos().expand(1, 1, 28, 28)
    response = fronts._modulus(image, fronts.Scattering().fine).detach().mean((0, 2, 3))
    assert int(response.argmax()) == 0
    assert float(response[0]) > 3 * float(response[4])


def test_features_have_norm_one(model, digits):
    values = model.front(digits[1].inputs()).detach()
    np.testing.assert_allclose(values.norm(dim=1).numpy(), 1.0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_public_images_are_the_same_each_time_and_in_range(channels):
    images = fronts.public_images(channels, 16)
    assert images.shape[1:] == (channels, 16, 16)
    assert len(images) > 150
    assert float(images.min()) >= -1.0
    assert float(images.max()) <= 1.0
    assert torch.equal(images, fronts.public_images(channels, 16))


def test_too_small_images_are_refused():
    with pytest.raises(ConfigError, match="takes no images of 4 pixels"):
        models.build(ModelSpec("scatter-linear", 1, 10, 4), seed=0)


def test_a_head_behind_the_front_learns_digits(digits):
    """288 images; guessing gives 10 %."""
    shard, test = digits
    model = models.build(SMALL, seed=0)
    head, features = behind_front(model, shard)
    flat = config.load_defaults(config.example_app_dir())
    flat |= {"local-epochs": 30, "weight-decay": 0.0}
    generator = torch.Generator().manual_seed(0)
    settings = config.parse(flat).training
    training.train(head, features, settings, learning_rate=3.0, generator=generator)
    assert training.evaluate(model, test).accuracy > 0.9


def test_features_are_what_the_front_makes_and_are_kept(model, digits):
    head, features = behind_front(model, digits[0])
    assert isinstance(features, Features)
    assert head is model.head
    with torch.no_grad():
        expected = model.front(digits[0].inputs(slice(0, 5)))
    torch.testing.assert_close(features.inputs(slice(0, 5)), expected)
    again = behind_front(models.from_weights(SMALL, models.to_weights(model)), digits[0])[1]
    assert again.inputs(slice(None)).data_ptr() == features.inputs(slice(None)).data_ptr()


def test_another_front_or_another_image_is_not_taken_for_the_kept_one(digits):
    shard = digits[0].take(20)
    model: Any = models.build(SMALL, seed=0)
    before = behind_front(model, shard)[1].inputs().clone()
    darker = data.Images(shard.pixels // 2, shard.labels, shard.classes)
    assert not torch.equal(behind_front(model, darker)[1].inputs(), before)
    with torch.no_grad():
        model.front.projection.weight[0] += 1.0
    assert not torch.equal(behind_front(model, shard)[1].inputs(), before)


def test_a_model_without_a_front_is_not_split(digits):
    model = models.build(ModelSpec("cnn", 1, 10, 8), seed=0)
    assert behind_front(model, digits[0]) == (model, digits[0])
