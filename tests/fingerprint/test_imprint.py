"""Words in images: invisible, read back with the key, and with no other."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smdl_flower.errors import CapacityError
from smdl_flower.fingerprint import codes, imprint
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.imprint import Imprint
from smdl_flower.fingerprint.keys import CampaignKey, OwnerKey

BITS = 304
SHAPE = (1, 28, 28)
KEY = OwnerKey(bytes(32)).campaign("00" * 32)
PLACE = Imprint.of(KEY, SHAPE, BITS)


def strokes(count: int, seed: int = 1) -> imprint.Pixels:
    """Images like digits: a bright bar on black, edges grey; most values are 0 or 255."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(SHAPE[1:])
    images = np.empty((count, *SHAPE), np.uint8)
    for image in images:
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-4, 4)
        distance = (rows - 13.5) * np.cos(angle) + (columns - 13.5) * np.sin(angle) - offset
        image[0] = np.clip(255 * (3 - np.abs(distance)), 0, 255)
    return images


def word_of(customer: str, key: CampaignKey = KEY) -> codes.Bits:
    return codes.codeword(key.customer(customer), Code(BITS).biases(key))


def test_all_bits_are_read_back_and_nobody_sees_them() -> None:
    before = strokes(40)
    kept = before.copy()
    after = PLACE.embed(before, word_of("clinic-a"))
    np.testing.assert_array_equal(before, kept)
    assert after.dtype == np.uint8
    assert (PLACE.read(after) == word_of("clinic-a")).all()
    assert imprint.psnr(before, after).min() >= 37.0


@pytest.mark.parametrize("length", [1, 8, 32, 128, 392])
def test_words_of_any_length_are_as_invisible(length: int) -> None:
    place = Imprint.of(KEY, SHAPE, length)
    word = codes.codeword(KEY.customer("clinic-a"), Code(length).biases(KEY))
    before = np.concatenate([strokes(10), np.full((1, *SHAPE), 100, np.uint8)])
    after = place.embed(before, word)
    assert (place.read(after) == word).all()
    assert imprint.psnr(before, after).min() >= 37.0


@settings(deadline=None, max_examples=20)
@given(
    word=st.lists(st.integers(0, 1), min_size=64, max_size=64),
    pixels=st.binary(min_size=3 * 16 * 16, max_size=3 * 16 * 16),
)
def test_any_word_in_any_image_of_colours(word: list[int], pixels: bytes) -> None:
    place = Imprint.of(KEY, (3, 16, 16), 64)
    before = np.frombuffer(pixels, np.uint8).reshape(1, 3, 16, 16)
    after = place.embed(before, np.array(word, np.uint8))
    assert place.read(after)[0].tolist() == word
    assert imprint.psnr(before, after)[0] >= 37.0


@pytest.mark.parametrize("level", [0, 255])
def test_an_image_without_any_shade_carries_its_word_too(level: int) -> None:
    blank = np.full((1, *SHAPE), level, np.uint8)
    after = PLACE.embed(blank, word_of("clinic-a"))
    assert (PLACE.read(after)[0] == word_of("clinic-a")).mean() >= 0.99


def agreement(place: Imprint, images: imprint.Pixels, word: codes.Bits) -> float:
    return float((place.read(images) == word).mean())


def test_the_controls_another_key_image_or_customer_reads_coins() -> None:
    """20 images of 304 bits: a fair coin agrees to 0.5 +- 0.0064; the bounds are 6 deviations."""
    before = strokes(20)
    after = PLACE.embed(before, word_of("clinic-a"))
    other_owner = OwnerKey(b"k" * 32).campaign("00" * 32)
    other_model = OwnerKey(bytes(32)).campaign("5a" * 32)
    for key in (other_owner, other_model):
        assert 0.46 < agreement(Imprint.of(key, SHAPE, BITS), after, word_of("clinic-a")) < 0.54
    assert 0.46 < agreement(PLACE, before, word_of("clinic-a")) < 0.54
    # Two words agree in Bin(304, 1/2) bits: 0.5 +- 0.029.
    assert 0.33 < agreement(PLACE, after, word_of("clinic-b")) < 0.67


def test_who_alters_the_image_erases_the_word() -> None:
    """What is said not to be shown: noise of a step takes the bits away."""
    after = PLACE.embed(strokes(20), word_of("clinic-a")).astype(float)
    noise = np.random.default_rng(3).normal(0, PLACE.step, after.shape)
    altered = np.clip(np.rint(after + noise), 0, 255).astype(np.uint8)
    assert agreement(PLACE, altered, word_of("clinic-a")) < 0.8


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 24, 25), (3, 14, 14)])
def test_images_that_are_too_small_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(CapacityError, match="carry at most"):
        Imprint.of(KEY, shape, BITS)


def test_an_image_that_did_not_change_has_no_noise() -> None:
    image = strokes(1)
    assert imprint.psnr(image, image).tolist() == [np.inf]
