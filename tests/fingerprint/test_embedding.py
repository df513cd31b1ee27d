"""Embedding: each copy differs from w0 by a mark of the asked strength, and bits read back."""

import base64
import math
import re

import numpy as np
import pytest

from smdl_flower.errors import CapacityError
from smdl_flower.fingerprint import carriers, codes, extraction
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.embedding import Mark, embed
from smdl_flower.fingerprint.keys import CampaignKey
from smdl_flower.fingerprint.layout import Layout, Vector
from smdl_flower.fingerprint.profile import uniform_profile
from smdl_flower.weights import Weights


def base_of(size: int) -> Weights:
    rows = size // 100
    values = np.random.default_rng(size).standard_normal((rows, 100), dtype=np.float32)
    half = rows // 2
    return {"a": values[:half] * np.float32(0.3), "b": values[half:] * np.float32(0.02)}


def uneven_profile(size: int) -> Vector:
    """A profile as uneven as a Fisher profile: log-normal, clipped at four."""
    values = np.exp(0.7 * np.random.default_rng(9).standard_normal(size))
    values = np.minimum(values / np.sqrt(np.mean(values**2)), 4)
    return np.asarray(values / np.sqrt(np.mean(values**2)), np.float32)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize(
    ("size", "length", "strength"),
    [
        (6_400, 64, 0.2),  # exactly 2 m / a_p^2: as small as it may be
        (30_400, 304, 0.2),
        (60_000, 304, 0.2),
        (140_000, 304, 0.1),
        (3_200, 128, 0.5),
        (160_000, 1600, 0.2),
    ],
)
def test_every_bit_reads_back_wherever_the_mark_is_allowed(
    small_key: CampaignKey, size: int, length: int, strength: float, uneven: bool
) -> None:
    base = base_of(size)
    profile = uneven_profile(size) if uneven else uniform_profile(Layout.of(base))
    mark = Mark.of(base, profile, small_key, code=Code(length), strength=strength)
    for name in ("clinic-a", "clinic-b"):
        key = small_key.customer(name)
        soft = extraction.read_payload(mark, embed(mark, key))
        word = codes.codeword(key, mark.biases)
        # y = +-A up to float32 rounding: of each |w/s| <= 5.5 at most four times to 6e-8, which by
        # Cauchy-Schwarz moves a soft bit by that times sqrt(weights of a group) < 40.
        assert soft == pytest.approx((2.0 * word - 1) * mark.amplitude, abs=4 * 5.5 * 6e-8 * 40)


@pytest.mark.parametrize("strength", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("length", [60, 200])
def test_a_model_too_small_is_refused_and_the_named_length_works(
    small_key: CampaignKey, length: int, strength: float
) -> None:
    size = int(2 * length / (strength**2 / 2)) // 100 * 100 - 100
    base = base_of(size)
    profile = uniform_profile(Layout.of(base))
    with pytest.raises(CapacityError, match="code-length") as refusal:
        Mark.of(base, profile, small_key, code=Code(length), strength=strength)
    named = re.search(r"code-length to (\d+) or less", str(refusal.value))
    assert named is not None
    mark = Mark.of(base, profile, small_key, code=Code(int(named[1])), strength=strength)
    assert mark.amplitude >= 1.0
    key = small_key.customer("clinic-a")
    bits = extraction.read_payload(mark, embed(mark, key)) > 0
    assert np.array_equal(bits, codes.codeword(key, mark.biases) == 1)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("strength", [0.1, 0.2, 0.4])
def test_the_marks_root_mean_square_in_units_of_scale_is_its_strength(
    small_key: CampaignKey, strength: float, uneven: bool
) -> None:
    base = base_of(40_000)
    layout = Layout.of(base)
    profile = uneven_profile(layout.size) if uneven else uniform_profile(layout)
    mark = Mark.of(base, profile, small_key, code=Code(16), strength=strength)
    change = (embed(mark, small_key.customer("clinic-a")) - mark.base).astype(float)
    for tensor in layout.tensors:
        change[tensor.where] /= tensor.scale
    energy = float(np.mean(change**2))
    # Carrier part a^2 mean(phi^2 g^2): deviation a^2 sqrt(2 mean(phi^4)/d). Payload part
    # sum_i (A b_i - y_i)^2 / d with y_i of deviation 1: deviation sqrt(m (4 A^2 + 2)) / d. The
    # carrier's part in the payload's span costs m a^2 / d and correlates by 2 a A sqrt(m) / d.
    half, size = strength**2 / 2, layout.size
    fourth = float(np.mean(profile.astype(float) ** 4))
    payload = math.sqrt(16 * (4 * mark.amplitude**2 + 2)) / size
    crossed = 2 * math.sqrt(half * 16) * mark.amplitude / size + 16 * half / size
    deviation = math.hypot(half * math.sqrt(2 * fourth / size), payload, crossed)
    assert abs(energy - strength**2) < 5 * deviation
    assert deviation < 0.08 * strength**2  # so that the line above says something


def test_embedding_changes_neither_base_nor_mark_and_repeats_itself(
    small_base: Weights, small_mark: Mark, small_key: CampaignKey
) -> None:
    before = {name: array.copy() for name, array in small_base.items()}
    marked, groups = small_mark.base.copy(), small_mark.spreading.groups.copy()
    first = embed(small_mark, small_key.customer("clinic-a"))
    again = embed(small_mark, small_key.customer("clinic-a"))
    assert first.dtype == np.float32
    assert first.tobytes() == again.tobytes()
    assert all(np.array_equal(before[name], small_base[name]) for name in before)
    assert np.array_equal(marked, small_mark.base)
    assert np.array_equal(groups, small_mark.spreading.groups)


def test_copies_of_two_customers_differ_in_every_tensor(
    small_mark: Mark, small_key: CampaignKey
) -> None:
    ours, theirs = (embed(small_mark, small_key.customer(name)) for name in ("a", "b"))
    for tensor in small_mark.layout.tensors:
        assert np.mean(ours[tensor.where] != theirs[tensor.where]) > 0.99


def test_the_carrier_is_added_at_half_the_energy(small_mark: Mark, small_key: CampaignKey) -> None:
    key = small_key.customer("clinic-a")
    change = embed(small_mark, key) - small_mark.base
    for tensor in small_mark.layout.tensors:
        change[tensor.where] /= tensor.scale
    # <g, change> / d: the carrier's a mean(g^2), a = 0.2 / sqrt(2), of deviation a sqrt(2/d), less
    # 32/12,800 of it in the payload's span; the payload's energy 0.02 is noise, sqrt(0.02/d).
    found = carriers.score(key, change) / small_mark.layout.size
    deviation = math.sqrt((0.02 * 2 + 0.02) / small_mark.layout.size)
    assert abs(found - 0.2 / math.sqrt(2) * (1 - 32 / 12_800)) < 5 * deviation


def test_unmarked_tensors_are_left_as_they_are(
    small_base: Weights, small_mark: Mark, small_key: CampaignKey
) -> None:
    copy = small_mark.layout.restore(small_base, embed(small_mark, small_key.customer("a")))
    assert copy["fc.bias"] is small_base["fc.bias"]
    assert copy.keys() == small_base.keys()


def test_a_mark_does_not_show_base_profile_or_groups(small_mark: Mark) -> None:
    shown = f"{small_mark} {small_mark!r}"
    assert "spreading" not in shown
    assert "profile" not in shown
    assert "base" not in shown
    for secret in (small_mark.base, small_mark.spreading.groups, small_mark.spreading.norms):
        assert str(secret[:3]) not in shown
        assert secret[:6].tobytes().hex() not in shown
        assert base64.b64encode(secret[:6].tobytes()).decode() not in shown
    assert small_mark.biases.tolist() == [0.5] * 32
