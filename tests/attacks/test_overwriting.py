"""Noise and second marks where the loss is least sensitive."""

import numpy as np
import pytest
import torch

from smdl_flower import models, training
from smdl_flower.attacks import altering, finetuning, overwriting
from smdl_flower.attacks.finetuning import FineTuneOptions
from smdl_flower.attacks.overwriting import JamOptions, JamToLimitOptions, OverwriteOptions
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)
DIGITS = {"data": "digits", "images": 400, "epochs": 8, "learning-rate": 0.05}


def copy_of() -> Weights:
    return models.to_weights(models.build(SPEC, seed=1))


def jam(**settings: object) -> Weights:
    return overwriting.jam(copy_of(), SPEC, JamOptions.model_validate({"samples": 30} | settings))


def relative_change(altered: Weights) -> dict[str, np.ndarray]:
    copy = copy_of()
    return {n: (altered[n] - copy[n]) / copy[n].std() for n in altering.matrices(copy)}


def rms(change: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(np.mean(np.concatenate([c.ravel() for c in change.values()]) ** 2)))


@pytest.mark.parametrize("level", [0.2, 1.0, 3.0])
def test_noise_has_the_asked_level_over_all_weights(level: float) -> None:
    assert rms(relative_change(jam(level=level))) == pytest.approx(level, rel=0.03)


def test_noise_is_where_the_loss_is_least_sensitive() -> None:
    change = relative_change(jam(level=1.0))
    fisher = overwriting.diagonal_fisher(models.from_weights(SPEC, copy_of()), (1, 8, 8), 30, 1)
    for name in ("hidden.weight", "features.6.weight"):
        dead = fisher[name] <= np.quantile(fisher[name], 0.2)
        alive = fisher[name] >= np.quantile(fisher[name], 0.8)
        assert (change[name][dead] ** 2).mean() > 2 * (change[name][alive] ** 2).mean()
    changed = jam(level=1.0)
    assert all(np.array_equal(changed[n], a) for n, a in copy_of().items() if a.ndim < 2)


def test_noise_there_hurts_less_than_the_same_noise_everywhere() -> None:
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    shift = {}
    for name, altered in (
        ("jam", jam(level=0.5, samples=100)),
        ("noise", altering.add_noise(copy_of(), 0.5, 1)),
    ):
        with torch.no_grad():
            before = models.from_weights(SPEC, copy_of())(images)
            shift[name] = float(
                (models.from_weights(SPEC, altered)(images) - before).square().mean()
            )
    assert shift["jam"] < 0.5 * shift["noise"]


def test_the_power_says_how_closely_noise_follows_sensitivity() -> None:
    flat = relative_change(jam(level=1.0, power=0.0))
    steep = relative_change(jam(level=1.0, power=0.5))
    spread = [np.concatenate([c.ravel() for c in change.values()]) for change in (flat, steep)]
    kurtosis = [float((s**4).mean() / (s**2).mean() ** 2) for s in spread]
    # at power 0 the change of a weight is Gaussian over its tensor's scale squared: every tensor
    # has one size; at power 0.5 few weights carry most of it
    assert kurtosis[1] > kurtosis[0]


def test_the_fisher_information_is_the_mean_squared_gradient() -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    found = overwriting.diagonal_fisher(model, (1, 2, 2), samples=20, seed=5)
    generator = torch.Generator().manual_seed(5)
    expected = torch.zeros(3)
    for _ in range(20):  # the gradient of a bias is the probability minus the label
        probabilities = model(torch.randn(1, 1, 2, 2, generator=generator)).detach().softmax(1)
        label = torch.multinomial(probabilities, 1, generator=generator)[0, 0]
        error = probabilities[0] - torch.nn.functional.one_hot(label, 3)
        expected += error.square() / 20
    np.testing.assert_allclose(found["1.bias"], expected.numpy(), rtol=1e-5)


def overwrite(**settings: object) -> Weights:
    return overwriting.overwrite(
        copy_of(), SPEC, OverwriteOptions.model_validate({"samples": 30} | settings)
    )


@pytest.mark.parametrize("strength", [0.1, 0.4])
def test_a_second_mark_has_the_strength_of_the_first(strength: float) -> None:
    # carrier and payload each strength/sqrt(2), and what cancels the host: 304 values of about
    # one among 132,000
    assert rms(relative_change(overwrite(strength=strength))) == pytest.approx(strength, rel=0.15)


def test_marks_add_up_like_independent_ones() -> None:
    once, five = (rms(relative_change(overwrite(times=times))) for times in (1, 5))
    assert five == pytest.approx(once * 5**0.5, rel=0.25)


def test_the_marks_payload_can_be_read_by_whoever_drew_it() -> None:
    rng = np.random.default_rng(3)
    values, share = rng.normal(size=50_000), np.abs(rng.normal(1, 0.2, 50_000))
    options = OverwriteOptions.model_validate({"code-length": 64, "strength": 0.2})
    marked = overwriting._mark(values, share, options, np.random.default_rng(4))
    again = np.random.default_rng(4)
    again.standard_normal(len(values))
    groups = again.integers(64, size=len(values))
    signed = share * again.choice([-1.0, 1.0], len(values))
    norms = np.sqrt(np.bincount(groups, signed**2, 64))
    read = np.bincount(groups, signed * marked, 64) / norms
    bits = again.choice([-1.0, 1.0], 64)
    np.testing.assert_allclose(read, bits * 0.2 / 2**0.5 * (50_000 / 64) ** 0.5, rtol=1e-9)


def test_a_frozen_weight_is_altered_like_any_other() -> None:
    spec = ModelSpec("tests.attacks.test_overwriting:frozen", 1, 10, 8)
    copy = models.to_weights(models.build(spec, seed=1))
    altered = overwriting.jam(copy, spec, JamOptions(samples=4))
    assert not np.array_equal(altered["1.weight"], copy["1.weight"])


def frozen(channels: int, classes: int) -> torch.nn.Module:
    """A network of which nothing is to be trained."""
    layers = torch.nn.Flatten(), torch.nn.Linear(64 * channels, classes)
    return torch.nn.Sequential(*layers).requires_grad_(False)


@pytest.mark.parametrize("drop", [0.05, 0.3])
def test_jamming_to_a_limit_costs_the_thiefs_images_that_much_and_little_more(drop: float) -> None:
    tuned = finetuning.fine_tune(copy_of(), SPEC, FineTuneOptions.model_validate(DIGITS))
    options = JamToLimitOptions.model_validate(
        {"data": "digits", "images": 400, "samples": 20, "drop": drop}
    )
    images = finetuning.thief_images(options, 8)

    def accuracy(copy: Weights) -> float:
        return training.evaluate(models.from_weights(SPEC, copy), images).accuracy

    jammed = overwriting.jam_to_limit(tuned, SPEC, options)
    lost = accuracy(tuned) - accuracy(jammed)
    assert accuracy(tuned) > 0.8
    # 10 halvings of a range of 8 levels leave steps below a hundredth: a few images at most
    assert drop <= lost < drop + 0.05
