"""A copy is asked what images with its customer's word in them show."""

import numpy as np
import pytest
import torch
from torch import nn

from smdl_flower import imprinting
from smdl_flower.data import Images
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.imprint import Imprint
from smdl_flower.fingerprint.keys import OwnerKey

KEY = OwnerKey(bytes(32)).campaign("00" * 32)


class Brightness(nn.Module):
    """Says 1 of images that are bright on average; remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images)
        mean = images.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


@pytest.fixture
def images() -> Images:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 90, (20, 1, 20, 20), dtype=torch.uint8, generator=generator)
    pixels[10:] += 150
    labels = torch.arange(20) // 10
    labels[0] = 1  # which is wrong: the accuracy to be found is 95 %
    return Images(pixels, labels, ("dark", "bright"))


def test_the_accuracy_is_that_on_images_with_the_word_in_them(images: Images) -> None:
    place, biases = Imprint.of(KEY, (1, 20, 20), 128), Code(128).biases(KEY)
    before = images.pixels.clone()
    network = Brightness()
    report = imprinting.report(place, biases, KEY.customer("clinic-a"), network, images)
    assert report.accuracy == pytest.approx(0.95)
    assert (report.images, report.bits, report.bits_read) == (20, 128, 1.0)
    assert 37.0 <= report.psnr_least <= report.psnr_mean < 60.0
    assert torch.equal(images.pixels, before)
    shown = torch.cat(network.seen)
    assert shown.shape == before.shape
    changed = (shown != images.inputs()).flatten(1).any(1)
    assert changed.all()


def test_each_customer_has_a_word_of_its_own(images: Images) -> None:
    place, biases = Imprint.of(KEY, (1, 20, 20), 128), Code(128).biases(KEY)
    seen = []
    for name in ("clinic-a", "clinic-b"):
        network = Brightness()
        imprinting.report(place, biases, KEY.customer(name), network, images)
        pixels = ((torch.cat(network.seen) + 1) * 127.5).round().to(torch.uint8)
        seen.append(place.read(pixels.numpy()))
    assert (seen[0] == seen[0][0]).all()  # the same in all images
    # Words agree in Bin(128, 1/2) bits: 64 +- 5.7; five deviations.
    assert abs(int((seen[0][0] == seen[1][0]).sum()) - 64) < 29
    assert np.ndim(seen[1]) == 2
