"""Query images: secret, reproducible, different for each key and pool."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.blackbox.queries import Pool, draw, make_bank
from smdl_flower.fingerprint import codes
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.keys import CampaignKey

CODE = Code(200)
KEY, OTHER = CampaignKey(bytes(32)), CampaignKey(b"other".ljust(32))


def pixel_means(images):
    """A "model" of eight classes: mean of each row of 8-pixel images."""
    return images.mean(axis=(1, 3)).astype(np.float32)


def bank(key=KEY, code=CODE, pools=2):
    return make_bank(key, code, pools, (1, 8, 8), pixel_means)


@given(st.integers(1, 3), st.integers(8, 40), st.integers(1, 3))
def test_images_have_the_shape_asked_for_and_some_contrast(channels, size, count):
    images = draw(KEY.stream("x"), count, (channels, size, size))
    assert images.shape == (count, channels, size, size)
    assert images.dtype == np.uint8
    assert (images.std(axis=(2, 3)) > 10).all()


def test_the_same_key_gives_the_same_pools_and_another_key_or_pool_no_common_image():
    first, again, other = bank(), bank(), bank(key=OTHER)
    for a, b in zip(first.pools, again.pools, strict=True):
        assert (a.images == b.images).all()
        assert (a.answers == b.answers).all()
    seen = [p.images for b in (first, other) for p in b.pools]
    flat = {image.tobytes() for pool in seen for image in pool}
    assert len(flat) == 4 * 200


def test_answers_are_the_two_likeliest_classes_in_an_order_of_the_keys():
    (pool,) = bank(code=Code(2000), pools=1).pools
    ranked = np.argsort(-pixel_means(pool.images), axis=1, kind="stable")[:, :2]
    assert (np.sort(pool.answers, axis=1) == np.sort(ranked, axis=1)).all()
    turned = int((pool.answers != ranked).any(axis=1).sum())
    assert abs(turned - 1000) < 5 * 22.4  # five deviations of Bin(2000, 1/2)


@pytest.mark.parametrize("kind", ["flat", "nuida", "arcsine"])
def test_words_of_pools_and_of_the_weights_are_unrelated(kind):
    made = bank(code=Code(2000, kind), pools=2)
    customer = KEY.customer("clinic-a")
    one, two = (made.word(customer, made.biases(KEY, p), p) for p in made.pools)
    white = codes.codeword(customer, Code(2000, kind).biases(KEY))
    for a, b in ((one, two), (one, white), (two, white)):
        correlation = np.corrcoef(a, b)[0, 1]
        assert abs(correlation) < 5 / np.sqrt(2000)
    assert (one == made.word(customer, made.biases(KEY, made.pools[0]), made.pools[0])).all()


def test_a_pool_whose_parts_do_not_fit_is_no_pool():
    with pytest.raises(ValueError, match="do not fit"):
        Pool(1, np.zeros((3, 1, 8, 8), np.uint8), np.zeros((2, 2), np.int64))


def test_no_secret_is_in_a_repr():
    assert "array" not in repr(bank())
