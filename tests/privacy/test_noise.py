"""The noise layer: what it clips, what it adds, what it refuses.

Noise is measured on a linear model whose gradients are known: image i is 50 e_i, the loss drives
column i alone. Bounds are four standard errors.
"""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from smdl_flower import config, models
from smdl_flower.errors import PrivacyError
from smdl_flower.models import ModelSpec
from smdl_flower.privacy import entropy as entropies
from smdl_flower.privacy import noise
from smdl_flower.privacy.accounting import Steps
from smdl_flower.privacy.entropy import RngKind, SeededEntropy, SystemEntropy
from smdl_flower.privacy.noise import Mechanism
from smdl_flower.representation import Features

DEFAULTS = config.load_defaults(config.example_app_dir())
PLAIN = config.parse(DEFAULTS | {"momentum": 0.0, "weight-decay": 0.0}).training


class NoNoise:
    """Uniforms of one half: normals are zero, and every image is sampled at rates above it."""

    kind: RngKind = "seeded"

    def uniforms(self, count):
        return np.full(count, 0.5)


def examples(n=40, features=6, classes=3, size=1.0):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n, features, generator=generator) * size
    return Features(values, torch.randint(classes, (n,), generator=generator))


def mechanism(sigma=1.0, rate=1.0, count=1, norm=0.1, batch=40.0):
    return Mechanism(Steps(sigma, rate, count), norm, batch)


def linear(features=6, classes=3):
    torch.manual_seed(0)
    return nn.Linear(features, classes)


def deep(features=6, classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(features, 5), nn.GroupNorm(1, 5), nn.Tanh(), nn.Linear(5, classes)
    )


def clipped_sum(model, data, norm):
    """An independent reference: one image at a time."""
    parameters = list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for i in range(len(data)):
        loss = nn.functional.cross_entropy(model(data.values[i : i + 1]), data.labels[i : i + 1])
        gradients = torch.autograd.grad(loss, parameters)
        length = math.sqrt(sum(float(g.square().sum()) for g in gradients))
        scale = min(1.0, norm / length)
        total = [t + g * scale for t, g in zip(total, gradients, strict=True)]
    return total


@pytest.mark.parametrize("make", [linear, deep], ids=["ghost", "per-sample gradients"])
@pytest.mark.parametrize("norm", [0.05, 0.6, 100.0])
def test_without_noise_a_step_is_the_sum_of_clipped_gradients_over_the_public_batch(make, norm):
    data, model = examples(), make()
    before = [p.detach().clone() for p in model.parameters()]
    expected = clipped_sum(model, data, norm)
    noise.train(
        model, data, mechanism(norm=norm, batch=50.0), PLAIN, learning_rate=2.0, entropy=NoNoise()
    )
    for start, after, total in zip(before, model.parameters(), expected, strict=True):
        torch.testing.assert_close(after.detach(), start - 2.0 * total / 50, atol=1e-5, rtol=1e-4)


def test_linear_parts_use_ghost_clipping_and_others_do_not():
    assert noise.uses_ghost_clipping(linear())
    assert not noise.uses_ghost_clipping(deep())
    fronted = models.build(ModelSpec("scatter-linear", 1, 10, 8), seed=0)
    assert not noise.uses_ghost_clipping(fronted)
    fronted.front.requires_grad_(False)
    assert noise.uses_ghost_clipping(fronted)


@pytest.mark.parametrize("make", [linear, deep], ids=["ghost", "per-sample gradients"])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_one_image_more_moves_the_model_by_at_most_c_over_the_public_batch(make, size):
    data = examples(size=size)
    fewer = Features(data.values[1:], data.labels[1:])
    ends = []
    for these in (data, fewer):
        model = make()
        noise.train(
            model,
            these,
            mechanism(norm=0.3, batch=7.0),
            PLAIN,
            learning_rate=1.0,
            entropy=NoNoise(),
        )
        ends.append(torch.cat([p.detach().double().flatten() for p in model.parameters()]))
    assert float((ends[0] - ends[1]).norm()) <= 0.3 / 7.0 * (1 + 1e-4)


@pytest.mark.parametrize("make", [linear, deep], ids=["ghost", "per-sample gradients"])
@pytest.mark.parametrize("source", [SystemEntropy(), SeededEntropy(3)], ids=["os", "seeded"])
def test_an_empty_batch_steps_with_noise_of_the_promised_size(make, source):
    """std = lr sigma C sqrt(T) / B; the standard error of a std of n normals is 1 / sqrt(2 n)."""
    model = make(400, 30)
    before = torch.cat([p.detach().flatten() for p in model.parameters()]).double()
    nobody = Features(torch.zeros(0, 400), torch.zeros(0, dtype=torch.long))
    chosen = mechanism(sigma=3.0, count=4, norm=0.5, batch=10.0)
    noise.train(model, nobody, chosen, PLAIN, learning_rate=2.0, entropy=source)
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]).double() - before
    expected = 2.0 * 3.0 * 0.5 * math.sqrt(4) / 10.0
    error = 4 / math.sqrt(2 * len(moved))
    assert abs(float(moved.std()) / expected - 1) < error
    assert abs(float(moved.mean())) < 4 * expected / math.sqrt(len(moved))


def test_noise_is_new_in_each_step_and_each_training():
    chosen = mechanism(sigma=50.0)
    ends = []
    for _ in range(2):
        model = linear()
        noise.train(model, examples(), chosen, PLAIN, learning_rate=1.0, entropy=SystemEntropy())
        ends.append(model.weight.detach().clone())
    assert not torch.equal(*ends)


def test_a_seeded_training_can_be_repeated_and_says_what_it_is():
    ends = []
    for _ in range(2):
        model, source = linear(), SeededEntropy(5)
        noise.train(
            model,
            examples(),
            mechanism(rate=0.5, count=4),
            PLAIN,
            learning_rate=1.0,
            entropy=source,
        )
        ends.append(model.weight.detach().clone())
        assert source.kind == "seeded"
    assert torch.equal(*ends)


def test_frozen_parameters_stay_as_they_are():
    model: Any = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    model[0].requires_grad_(False)
    before = model[0].weight.detach().clone()
    noise.train(model, examples(), mechanism(), PLAIN, learning_rate=1.0, entropy=SystemEntropy())
    assert torch.equal(model[0].weight, before)


def test_no_gradient_of_an_image_is_left_on_the_model():
    for make in (linear, deep):
        model = make()
        noise.train(
            model, examples(), mechanism(), PLAIN, learning_rate=1.0, entropy=SystemEntropy()
        )
        for parameter in model.parameters():
            assert parameter.grad is None
            assert getattr(parameter, "grad_sample", None) is None
            assert getattr(parameter, "_norm_sample", None) is None
        assert not any(hasattr(m, "activations") and m.activations for m in model.modules())


class TestRefusals:
    @pytest.mark.parametrize("norm", [nn.BatchNorm1d(6), nn.SyncBatchNorm(6)])
    def test_batch_norm_also_where_it_is_frozen(self, norm):
        norm.requires_grad_(False)
        with pytest.raises(PrivacyError, match="mixes the images of a batch"):
            noise.require_private(nn.Sequential(norm, nn.Linear(6, 3)))

    def test_a_buffer_that_noise_does_not_cover(self):
        model = nn.Sequential(nn.Linear(6, 3))
        model.register_buffer("seen", torch.zeros(1))
        with pytest.raises(PrivacyError, match="buffer seen"):
            noise.require_private(model)

    def test_nothing_to_train(self):
        with pytest.raises(PrivacyError, match="no GUARDED parameter"):
            noise.require_private(linear().requires_grad_(False))

    def test_images_that_are_mixed(self):
        with pytest.raises(PrivacyError, match="one image at a time"):
            noise.require_private(linear(), "mixup")

    def test_what_is_private_is_accepted(self):
        noise.require_private(deep(), "shift-flip")


class TestEntropy:
    def test_uniforms_are_uniform_and_never_at_the_ends(self):
        """Kolmogorov-Smirnov: D sqrt(n) > 2.5 has a probability of 2 exp(-2 * 2.5^2) = 7e-6."""
        for source in (SystemEntropy(), SeededEntropy(0)):
            values = np.sort(source.uniforms(100_000))
            distance = np.abs(values - np.arange(100_000) / 100_000).max()
            assert distance * math.sqrt(100_000) < 2.5
        extremes = entropies._centred(np.array([0, 2**64 - 1], np.uint64))
        assert 0.0 < extremes[0] < extremes[1] < 1.0

    def test_normals_have_the_moments_of_a_normal(self):
        """Four standard errors: 1/sqrt(n) of the mean, sqrt(2/n), sqrt(96/n) of the kurtosis."""
        n = 400_000
        values = entropies.normals(SystemEntropy(), torch.Size([n])).double()
        assert abs(float(values.mean())) < 4 / math.sqrt(n)
        assert abs(float(values.var()) - 1) < 4 * math.sqrt(2 / n)
        assert abs(float(values.pow(4).mean()) - 3) < 4 * math.sqrt(96 / n)

    def test_a_poisson_batch_has_each_image_by_chance_alone(self):
        """Sizes are binomial: mean 100, variance 90; bounds of four standard errors of 500."""
        sizes = [len(entropies.poisson_batch(SystemEntropy(), 1000, 0.1)) for _ in range(500)]
        assert abs(np.mean(sizes) - 100) < 4 * math.sqrt(90 / 500)
        assert abs(np.var(sizes) / 90 - 1) < 4 * math.sqrt(2 / 500)

    def test_at_rate_one_every_image_is_in(self):
        batch = entropies.poisson_batch(NoNoise(), 5, 1.0)
        assert batch.tolist() == [0, 1, 2, 3, 4]
