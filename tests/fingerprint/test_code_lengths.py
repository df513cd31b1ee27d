"""Codes from 32 to 8,192 bits, embedded in real networks and read back from them."""

import functools

import pytest

from smdl_flower import models, weights
from smdl_flower.attacks import altering
from smdl_flower.errors import CapacityError
from smdl_flower.fingerprint import carriers, codes, embedding, extraction
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.keys import CampaignKey
from smdl_flower.fingerprint.layout import Layout, Vector
from smdl_flower.fingerprint.profile import sensitivity_profile
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights

SMALL = ModelSpec("cnn", channels=1, classes=10, image_size=28)  # 131,992 marked weights
LARGE = ModelSpec("resnet18", channels=3, classes=10, image_size=32)  # 11,172,032
STRENGTH = 0.2
MOST = {SMALL: 1_319, LARGE: 111_720}  # bits: 100 weights each at this strength


@functools.cache
def base_and_profile(spec: ModelSpec) -> tuple[Weights, Vector]:
    model = models.build(spec, seed=3)
    base = models.to_weights(model)
    shape = (spec.channels, spec.image_size, spec.image_size)
    return base, sensitivity_profile(model, Layout.of(base), shape, samples=10)


def mark_of(spec: ModelSpec, key: CampaignKey, code: Code) -> Mark:
    base, profile = base_and_profile(spec)
    return Mark.of(base, profile, key, code=code, strength=STRENGTH)


NETWORKS = [
    *(pytest.param(SMALL, length, id=f"cnn-{length}") for length in (32, 64, 304, 1024)),
    *(
        pytest.param(LARGE, length, id=f"resnet18-{length}", marks=pytest.mark.slow)
        for length in (32, 64, 304, 1024, 4096, 8192)
    ),
]


@pytest.mark.parametrize(("spec", "length"), NETWORKS)
def test_every_bit_of_a_real_network_reads_back_from_its_file(
    spec: ModelSpec, length: int, small_key: CampaignKey, tmp_path
) -> None:
    mark = mark_of(spec, small_key, Code(length))
    base, _ = base_and_profile(spec)
    key = small_key.customer("clinic-a")
    path = tmp_path / "copy.safetensors"
    weights.write(path, mark.layout.restore(base, embedding.embed(mark, key)))
    copy = weights.read(path).weights
    word = codes.codeword(key, mark.biases)
    assert len(word) == length
    for suspect in (copy, altering.quantize(copy, 8), altering.to_float16(copy)):
        reading = extraction.read(mark, suspect)
        assert (reading.bits == word).all()
        assert carriers.score(key, reading.direction) > 50


@pytest.mark.parametrize("length", [1_320, 4_096, 8_192])
def test_a_code_too_long_for_a_network_is_refused_with_the_longest_that_fits(
    length: int, small_key: CampaignKey
) -> None:
    with pytest.raises(CapacityError, match=r"cannot carry .* to 1319 or less"):
        mark_of(SMALL, small_key, Code(length))
    longest = mark_of(SMALL, small_key, Code(MOST[SMALL]))
    word = codes.codeword(small_key.customer("clinic-a"), longest.biases)
    copy = embedding.embed(longest, small_key.customer("clinic-a"))
    assert ((extraction.read_payload(longest, copy) > 0) == word).all()


def test_a_network_with_other_weights_does_not_hold_the_codeword(small_key: CampaignKey) -> None:
    mark = mark_of(SMALL, small_key, Code(1024))
    other = models.to_weights(models.build(SMALL, seed=4))
    bits = extraction.read(mark, other).bits
    word = codes.codeword(small_key.customer("clinic-a"), mark.biases)
    # 1,024 fair bits agree with a word in 512 places, give or take five times sqrt(1024)/2
    assert abs(int((bits == word).sum()) - 512) < 80
