"""Carriers: sub-Gaussian without exception, symmetric, independent, and streamed as a whole."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from smdl_flower.fingerprint import carriers
from smdl_flower.fingerprint.carriers import CHUNK, value_table
from smdl_flower.fingerprint.keys import CustomerKey, OwnerKey

CAMPAIGN = OwnerKey(bytes(32)).campaign("00" * 32)


def whole(key: CustomerKey, size: int) -> NDArray[np.float32]:
    return value_table()[key.stream("carrier").uint16(size)]


@pytest.mark.parametrize("t", [1e-3, 0.01, 0.1, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 30.0])
def test_the_table_is_sub_gaussian(t: float) -> None:
    # E exp(tX) - 1 = E 2 sinh^2(tX/2) by symmetry: all terms positive, summed exactly. One minus
    # the variance is about 1e-5, so the inequality has room for 1e-14 of rounding at every t.
    terms = 2 * np.square(np.sinh(t * value_table().astype(np.float64) / 2))
    moment = math.fsum(terms.tolist()) / 65_536
    assert moment * (1 + 1e-14) <= math.expm1(t * t / 2)


def test_the_table_is_symmetric_ascending_and_standardised() -> None:
    table = value_table().astype(np.float64)
    assert table.shape == (65_536,)
    assert (table == -table[::-1]).all()
    assert (np.diff(table) > 0).all()
    assert math.fsum(table.tolist()) == 0.0
    assert 0.9999 < math.fsum(np.square(table).tolist()) / 65_536 < 1.0


def test_table_values_lie_within_their_quantile_bins() -> None:
    ranks = norm.cdf(value_table().astype(np.float64)) * 65_536
    # float32 moves a value x by 1.2e-7 x, so a rank by at most 65,536 max(x pdf(x)) 1.2e-7 = 2e-3.
    assert (ranks >= np.arange(65_536) - 2e-3).all()
    assert (ranks <= np.arange(1, 65_537) + 2e-3).all()


@pytest.mark.parametrize("size", [0, 1, 1000, CHUNK - 1, CHUNK, CHUNK + 1])
def test_a_streamed_score_is_the_dot_product_of_whole_vectors(size: int) -> None:
    key = CAMPAIGN.customer("clinic-a")
    direction = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    expected = math.fsum((whole(key, size).astype(float) * direction.astype(float)).tolist())
    # Double precision: 1e5 additions of numbers below 30, each to 1e-16 of a partial sum below 1e4.
    assert carriers.score(key, direction) == pytest.approx(expected, abs=1e-6)


def test_chunks_cover_every_position_once_and_in_order() -> None:
    key, size = CAMPAIGN.customer("clinic-a"), 2 * CHUNK + 5
    pieces = list(carriers.chunks(key, size))
    assert [(w.start, w.stop) for w, _ in pieces] == [
        (0, CHUNK),
        (CHUNK, 2 * CHUNK),
        (2 * CHUNK, size),
    ]
    assert np.array_equal(np.concatenate([values for _, values in pieces]), whole(key, size))


def test_a_long_carrier_has_mean_zero_and_variance_one() -> None:
    carrier = whole(CAMPAIGN.customer("clinic-a"), 1_000_000).astype(np.float64)
    # Standard errors 1/sqrt(1e6) and 1/sqrt(2e6); five of each.
    assert abs(carrier.mean()) < 5e-3
    assert abs(carrier.std() - 1) < 5 * 7.1e-4


def test_carriers_of_two_customers_and_two_campaigns_are_uncorrelated() -> None:
    other = OwnerKey(bytes(32)).campaign("01" * 32)
    ours, theirs, elsewhere = (
        whole(key, 1_000_000).astype(np.float64)
        for key in (CAMPAIGN.customer("a"), CAMPAIGN.customer("b"), other.customer("a"))
    )
    # <g, g'>/d has standard error 1/sqrt(1e6).
    assert abs(ours @ theirs) / 1e6 < 5e-3
    assert abs(ours @ elsewhere) / 1e6 < 5e-3


def test_innocents_scores_against_a_one_sided_direction_keep_the_bound() -> None:
    # A direction of few large entries is the furthest from Gaussian: 4,000 keys, three entries.
    direction = np.array([0.8, 0.0, -0.6, 0.0], np.float32)
    scores = [carriers.score(CAMPAIGN.customer(f"c{i}"), direction) for i in range(4000)]
    for t in (1.0, 2.0, 3.0):
        bound = math.exp(-t * t / 2)
        assert sum(s >= t for s in scores) <= 4000 * bound + 5 * math.sqrt(4000 * bound)
    # Standard deviation 1 with standard error 1/sqrt(8000) = 0.011.
    assert abs(np.std(scores) - 1) < 5 * 0.0112


def test_released_carriers_never_change() -> None:
    values = whole(CAMPAIGN.customer("clinic-a"), 4)
    # Another scipy may round a quantile differently: two units in the last place of a float32.
    assert values.tolist() == pytest.approx(
        [-0.0886027887, 0.3907681108, -0.6724023819, 0.2380873263], rel=2.4e-7
    )
