"""Payload: keyed groups, their sums, their removal, and how much a model can carry."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.errors import CapacityError
from smdl_flower.fingerprint.carriers import CHUNK, sum_by_group
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.keys import CampaignKey, OwnerKey
from smdl_flower.fingerprint.payload import LEAST_WEIGHTS_PER_BIT, Spreading, amplitude


@pytest.mark.parametrize(("size", "length"), [(1000, 1), (1000, 7), (CHUNK + 3, 304)])
def test_groups_and_signs_are_those_of_the_key_stream(
    small_key: CampaignKey, size: int, length: int
) -> None:
    profile = np.random.default_rng(1).uniform(0.2, 3, size).astype(np.float32)
    spreading = Spreading.of(small_key, profile, length)
    words = [int(word) for word in small_key.stream("payload").uint32(size)]
    assert spreading.groups.tolist() == [(word // 2) * length // 2**31 for word in words]
    signs = np.array([-1 if word % 2 else 1 for word in words], np.float32)
    assert np.array_equal(spreading.signed_profile, signs * profile)
    for group in (0, length - 1):
        members = profile[spreading.groups == group].astype(float)
        # float32 squares are exact to 6e-8 each.
        assert spreading.norms[group] == pytest.approx(math.sqrt(members @ members), rel=1e-7)
    assert spreading.length == length


def test_groups_are_of_even_size_and_signs_of_even_number(small_key: CampaignKey) -> None:
    spreading = Spreading.of(small_key, np.ones(304_000, np.float32), 304)
    counts = np.bincount(spreading.groups, minlength=304)
    # Chi-squared of 303 degrees: mean 303, deviation 24.6.
    assert float(np.square(counts - 1000).sum()) / 1000 < 303 + 5 * 24.6
    # A sum of 304,000 signs has deviation 551.
    assert abs(float(spreading.signed_profile.sum())) < 5 * 551


def test_another_campaign_or_owner_has_other_groups(small_key: CampaignKey) -> None:
    profile = np.ones(2000, np.float32)
    ours = Spreading.of(small_key, profile, 64).groups
    for key in (OwnerKey(bytes(32)).campaign("00" * 32), OwnerKey(b"k" * 32).campaign("5a" * 32)):
        same = int((Spreading.of(key, profile, 64).groups == ours).sum())
        # Bin(2000, 1/64): mean 31, deviation 5.5.
        assert same < 31 + 5 * 5.5


def test_soft_bits_are_the_signed_sums_over_each_group(small_mark: Mark) -> None:
    spreading, layout = small_mark.spreading, small_mark.layout
    scales = np.empty(layout.size)
    for tensor in layout.tensors:
        scales[tensor.where] = tensor.scale
    units = small_mark.base.astype(float) / scales * spreading.signed_profile
    expected = [units[spreading.groups == i].sum() / spreading.norms[i] for i in range(32)]
    # 400 float32 products below 5, each to 6e-8, over a norm of 20.
    assert spreading.project(small_mark.base, layout) == pytest.approx(np.array(expected), abs=1e-5)


def test_removing_the_span_leaves_nothing_of_it_and_all_of_the_rest(small_mark: Mark) -> None:
    spreading = small_mark.spreading
    rng = np.random.default_rng(2)
    kept = rng.random(small_mark.layout.size) > 0.3
    values = (rng.standard_normal(len(kept)) * kept).astype(np.float32)
    values += 0.7 * spreading.signed_profile * kept
    before = sum_by_group(spreading.groups, values * spreading.signed_profile, 32)
    assert np.abs(before).min() > 100
    removed = spreading.remove_span(values, kept)
    after = sum_by_group(spreading.groups, removed * spreading.signed_profile, 32)
    # Each of some 280 kept values of size 4 is rounded to 6e-8 three times.
    assert np.abs(after).max() < 350 * 4 * 3 * 6e-8
    assert (removed[~kept] == 0.0).all()
    # What is left differs from what was there by one multiple of e phi in each group.
    shift = (values - removed)[kept] * spreading.signed_profile[kept]
    for group in (0, 31):
        assert float(np.ptp(shift[spreading.groups[kept] == group])) < 4 * 3 * 1.2e-7
    # Nothing more to remove the second time.
    assert spreading.remove_span(removed, kept) == pytest.approx(removed, abs=1e-6)


def test_removing_the_span_where_nothing_is_kept_changes_nothing(small_mark: Mark) -> None:
    nothing = np.zeros(small_mark.layout.size, dtype=bool)
    values = np.zeros(len(nothing), np.float32)
    assert np.array_equal(small_mark.spreading.remove_span(values, nothing), values)


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-100, 100, width=32)), max_size=50))
def test_sums_by_group_are_sums(pairs: list[tuple[int, float]]) -> None:
    groups = np.array([g for g, _ in pairs], np.uint16)
    values = np.array([v for _, v in pairs], np.float32)
    sums = sum_by_group(groups, values, 6)
    assert sums.dtype == np.float64
    expected = [math.fsum(v for g, v in pairs if g == group) for group in range(6)]
    assert sums.tolist() == pytest.approx(expected, abs=1e-10)


@given(st.integers(1, 10_000_000), st.integers(1, 8192), st.floats(0.01, 1.0))
def test_a_payload_is_refused_exactly_where_it_would_be_weaker_than_its_host(
    size: int, length: int, strength: float
) -> None:
    energy = strength**2 / 2
    if energy * size / length >= 2.0 and size >= LEAST_WEIGHTS_PER_BIT * length:
        found = amplitude(size, length, energy)
        assert found >= 1.0
        # What moving m soft bits of variance one to +-A costs is the energy that is there.
        assert (found**2 + 1) * length / size == pytest.approx(energy, rel=1e-12)
    else:
        with pytest.raises(CapacityError):
            amplitude(size, length, energy)


@given(st.integers(1000, 10_000_000), st.integers(1, 8192), st.floats(0.05, 1.0))
def test_a_refusal_names_the_longest_code_and_the_smallest_model_that_work(
    size: int, length: int, strength: float
) -> None:
    energy = strength**2 / 2
    weights_per_bit = max(2.0 / energy, LEAST_WEIGHTS_PER_BIT)
    if size >= weights_per_bit * length or size < weights_per_bit:
        return
    with pytest.raises(CapacityError) as refusal:
        amplitude(size, length, energy)
    numbers = re.search(r"to (\d+) or less.* at least ([\d,]+) marked", str(refusal.value))
    assert numbers is not None
    largest, smallest = (int(number.replace(",", "")) for number in numbers.groups())
    assert amplitude(size, largest, energy) >= 1.0
    assert amplitude(smallest, length, energy) >= 1.0
    with pytest.raises(CapacityError):
        amplitude(size, largest + 1, energy)
