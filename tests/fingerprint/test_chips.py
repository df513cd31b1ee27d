"""Compressed carriers, in a synthetic model with 4,096 values for 200,000 weights."""

import numpy as np
import pytest

from smdl_flower.attacks import altering, collusion
from smdl_flower.fingerprint import carriers, codes, extraction
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.carriers import Chips
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.embedding import Mark, embed
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.profile import uniform_profile

LENGTH = 4096


@pytest.fixture(scope="module")
def base():
    rng = np.random.default_rng(9)
    return {"a.weight": rng.standard_normal((400, 500), dtype=np.float32)}


@pytest.fixture(scope="module")
def mark(base, small_key):
    profile = uniform_profile(Layout.of(base))
    return Mark.of(base, profile, small_key, code=Code(304), strength=0.2, carrier_length=LENGTH)


def copy_for(mark, base, key, name):
    return mark.layout.restore(base, embed(mark, key.customer(name)))


def score(mark, key, suspect, name):
    return carriers.score(key.customer(name), extraction.read(mark, suspect).direction)


def test_large_models_get_compressed_carriers_by_default(base, small_key):
    assert carriers.length_for(1_000_000) == 1_000_000
    assert carriers.length_for(1_000_001) == carriers.CHIPS
    profile = uniform_profile(Layout.of(base))
    assert Mark.of(base, profile, small_key, code=Code(304), strength=0.2).chips is None


def test_compressing_is_the_adjoint_of_spreading(small_key):
    """<spread carrier, q> over all weights equals <carrier, compressed q>."""
    chips = Chips.of(small_key, 300_000, LENGTH)
    key = small_key.customer("clinic-a")
    q = np.random.default_rng(1).standard_normal(300_000).astype(np.float32)
    spread = np.concatenate([values for _, values in chips.chunks(key)])
    direct = float(spread.astype(np.float64) @ q.astype(np.float64))
    compressed = carriers.score(key, chips.compress(q))
    # 300,000 products, each rounded to 6e-8: about 3e-5 in all.
    assert compressed == pytest.approx(direct, abs=1e-2)


def test_a_fresh_copy_reads_like_one_with_a_full_carrier(mark, base, small_key):
    copy = copy_for(mark, base, small_key, "clinic-a")
    reading = extraction.read(mark, copy)
    assert reading.direction.shape == (LENGTH,)
    # The compressed vector has 4,096 values: z cannot exceed the carrier's own length, 64.
    assert 60 < carriers.score(small_key.customer("clinic-a"), reading.direction) < 66
    word = codes.codeword(small_key.customer("clinic-a"), mark.biases)
    assert (reading.bits == word).all()


@pytest.mark.parametrize(
    "alter",
    [
        lambda copy: altering.prune(copy, 0.8),
        lambda copy: altering.quantize(copy, 4),
        lambda copy: altering.add_noise(copy, 0.5, 3),
    ],
)
def test_an_altered_copy_is_traced(alter, mark, base, small_key):
    suspect = alter(copy_for(mark, base, small_key, "clinic-a"))
    assert score(mark, small_key, suspect, "clinic-a") > 30


def test_a_coalition_of_five_is_named_whole_and_innocents_are_not(mark, base, small_key):
    names = [f"clinic-{letter}" for letter in "abcde"]
    merged = collusion.average([copy_for(mark, base, small_key, name) for name in names])
    threshold = Level(total=1e-6, words=2000, hypotheses=2).carrier_threshold()
    direction = extraction.read(mark, merged).direction
    scores = [carriers.score(small_key.customer(name), direction) for name in names]
    assert min(scores) > threshold
    innocents = np.array(
        [carriers.score(small_key.customer(f"innocent-{i}"), direction) for i in range(2000)]
    )
    # Standard errors of mean and deviation of 2,000: 0.022 and 0.016; five of each.
    assert abs(innocents.mean()) < 0.11
    assert abs(innocents.std() - 1) < 0.08
    assert innocents.max() < threshold
