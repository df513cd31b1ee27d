"""Success is counted against all candidates, not by resemblance."""

import pytest
import torch

from smdl_flower.data import Images
from smdl_flower.privacy.attacks.reidentification import NOBODY, class_means, reidentify


def test_exact_reconstructions_in_any_order_are_recognised(digits: Images):
    inputs = digits.inputs()
    found = reidentify(inputs[[7, 3, 5]], torch.tensor([3, 5, 7]), inputs)
    assert found.hits == (True, True, True)
    assert min(found.psnr) == pytest.approx(86.0, abs=0.1)


def test_contrast_and_brightness_do_not_matter(digits: Images):
    inputs = digits.inputs()
    assert reidentify(0.3 * inputs[[4]] - 0.4, torch.tensor([4]), inputs).count == 1


def test_the_mean_image_of_a_class_identifies_nobody(digits: Images):
    inputs = digits.inputs()
    means = class_means(inputs, digits.labels)
    total = NOBODY
    for index in range(40):
        own = means[digits.labels[index]][None]
        total += reidentify(own, torch.tensor([index]), inputs)
    # One image in each class is nearest to its mean; 40 of 1,440 are tried.
    assert total.count <= 2


def test_noise_identifies_as_many_as_chance_does(digits: Images, generator):
    inputs = digits.inputs()[:100]
    noise = torch.randn(300, *inputs.shape[1:], generator=generator)
    which = torch.randint(0, 100, (300,), generator=generator)
    total = sum(reidentify(noise[[i]], which[[i]], inputs).count for i in range(300))
    assert total <= 12  # binomial(300, 1/100) exceeds 12 with probability 2e-5
