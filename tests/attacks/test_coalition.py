"""Coalitions that go on after they have combined their copies."""

import numpy as np

from smdl_flower import models
from smdl_flower.attacks import altering, catalogue, coalition, collusion
from smdl_flower.config import Scalar
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights, digest

SPEC = ModelSpec("cnn", channels=1, classes=10, image_size=8)


def marked(count: int) -> list[Weights]:
    base = models.to_weights(models.build(SPEC, seed=0))
    rng = np.random.default_rng(1)
    return [
        {n: a + 0.1 * a.std() * rng.standard_normal(a.shape, np.float32) for n, a in base.items()}
        for _ in range(count)
    ]


def test_averaging_first_is_what_the_single_attack_does_to_the_mean() -> None:
    copies = marked(3)
    mean = collusion.average(copies)
    for joint, alone in (
        ("average-noise", "noise"),
        ("average-prune", "prune"),
        ("average-quantize", "quantize"),
        ("average-permute", "permute"),
    ):
        together = catalogue.run(joint, copies, SPEC, {})
        assert digest(together.weights) == digest(catalogue.run(alone, [mean], SPEC, {}).weights)
    settings: dict[str, Scalar] = {"data": "digits", "images": 16, "epochs": 1}
    tuned = catalogue.run("average-fine-tune", copies, SPEC, settings)
    expected = catalogue.run("fine-tune", [mean], SPEC, settings)
    assert digest(tuned.weights) == digest(expected.weights)


def test_noise_goes_only_where_copies_differ_most_and_is_as_large_as_the_difference() -> None:
    copies = marked(4)
    mean, spread = collusion.average(copies), collusion.spread(copies)
    noisy = coalition.localise(copies, share=0.3, level=1.0, seed=1)
    names = altering.matrices(mean)
    changed = np.concatenate([(noisy[n] != mean[n]).ravel() for n in names])
    relative = np.concatenate([(spread[n] / mean[n].std()).ravel() for n in names])
    assert abs(changed.mean() - 0.3) < 0.001
    assert relative[changed].min() >= relative[~changed].max()
    noise = np.concatenate([((noisy[n] - mean[n]) / spread[n]).ravel() for n in names])[changed]
    assert abs(noise.std() - 1) < 5 / (2 * noise.size) ** 0.5
    assert all(np.array_equal(noisy[n], mean[n]) for n in mean if n not in names)


def test_zeros_go_where_copies_differ_most() -> None:
    copies = marked(4)
    mean = collusion.average(copies)
    zeroed = coalition.localise_zero(copies, share=0.2)
    names = altering.matrices(mean)
    zeros = np.concatenate([(zeroed[n] == 0).ravel() for n in names])
    assert abs(zeros.mean() - 0.2) < 0.001
    for name in names:
        kept = zeroed[name] != 0
        assert np.array_equal(zeroed[name][kept], mean[name][kept])


def test_copies_that_agree_have_nothing_to_localise() -> None:
    copy = marked(1)[0]
    result = coalition.localise([copy, copy], share=0.5, level=1.0, seed=1)
    assert digest(result) == digest(copy)


def test_one_permuted_copy_is_averaged_as_it_is() -> None:
    copies = marked(3)
    result = coalition.average_with_one_permuted(copies, SPEC, 1)
    turned = catalogue.run("permute", copies[:1], SPEC, {"seed": 1}).weights
    assert digest(result) == digest(collusion.average([turned, *copies[1:]]))
