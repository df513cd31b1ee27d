"""No number of examples counts for more than a share of all, and none is raised."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.flower.weighing import truncated

counts = st.lists(st.integers(1, 10**8), min_size=1, max_size=30)
shares = st.floats(1e-3, 1.0)


@given(counts, shares)
def test_no_number_is_more_than_the_share(examples, share):
    after = truncated(examples, share)
    limit = max(share, 1 / len(examples))
    assert max(after) <= limit * sum(after) * (1 + 1e-6)


@given(counts, shares)
def test_numbers_are_cut_and_never_raised_and_keep_their_order(examples, share):
    after = truncated(examples, share)
    for before, now in zip(examples, after, strict=True):
        assert 0 < now <= before
    ranks = sorted(range(len(examples)), key=lambda i: examples[i])
    assert all(after[a] <= after[b] * (1 + 1e-9) for a, b in itertools.pairwise(ranks))


@given(counts)
def test_a_share_of_all_cuts_nothing(examples):
    assert truncated(examples, 1.0) == examples


@given(counts, shares)
def test_no_more_is_cut_than_needed(examples, share):
    """What was cut is exactly at the limit."""
    after = truncated(examples, share)
    limit = max(share, 1 / len(examples))
    for before, now in zip(examples, after, strict=True):
        if now != before:
            assert now == pytest.approx(limit * sum(after), rel=1e-6)
