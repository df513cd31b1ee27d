"""A linear decoder undoes a front that compresses, and gets little from noisy features."""

import torch

from smdl_flower.data import Images
from smdl_flower.privacy.attacks.decoding import fit
from smdl_flower.privacy.attacks.reidentification import NOBODY, reidentify


def decoded(digits: Images, noise: float, generator: torch.Generator) -> int:
    """Images re-identified of 50, from 24 tanh features; the decoder never saw them."""
    inputs = digits.inputs()
    mixing = torch.randn(64, 24, generator=generator) / 8
    features = torch.tanh(inputs.flatten(1) @ mixing)
    decoder = fit(features[100:], inputs[100:], noise)
    noisy = features[:50] + noise * torch.randn(50, 24, generator=generator)
    images, total = decoder.decode(noisy), NOBODY
    for index in torch.arange(50).split(1):
        total += reidentify(images[index], index, inputs)
    return total.count


def test_a_front_that_compresses_is_decoded(digits: Images, generator):
    assert decoded(digits, 0.0, generator) >= 25  # chance: 50 / 1,440


def test_noise_on_the_features_stops_the_decoder(digits: Images, generator):
    assert decoded(digits, 5.0, generator) <= 2


def test_no_features_give_the_mean_image(digits: Images):
    decoder = fit(torch.zeros(100, 3), digits.inputs()[:100])
    torch.testing.assert_close(decoder.decode(torch.ones(1, 3))[0], digits.inputs()[:100].mean(0))
