"""The estimated law gives the detector that the theory of locally optimum detection asks for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from smdl_flower.fingerprint.law import REACH, Law

COUNT = 100_000


def normal(seed: int = 0, count: int = COUNT) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(count)


def two_humps(seed: int = 0) -> NDArray[np.float64]:
    """Extremes of a coalition: a wide gap, narrow humps."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.choice([-1.0, 1.0], COUNT) + 0.3 * rng.standard_normal(COUNT))


def test_gaussian_deviations_are_weighted_in_proportion() -> None:
    law = Law.of(normal())
    x = np.linspace(-2.5, 2.5, 51)
    # The smoothing widens the variance by 0.2^2 = 4 %. The slope of a kernel estimate of width h
    # has the variance p / (4 sqrt(pi) n h^3); x is off by half a cell at most.
    density = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    error = 4 * np.sqrt(1 / (4 * np.sqrt(np.pi) * COUNT * 0.2**3 * density)) + 0.025
    assert (np.abs(law.score(x) - x / 1.04) < error).all()
    assert 0.85 < law.information < 1.0  # less in the tails, where there are hardly any values


def test_between_two_humps_the_sign_turns() -> None:
    law = Law.of(two_humps())
    inside, outside = law.score(np.array([-0.7, 0.7])), law.score(np.array([-1.4, 1.4]))
    assert inside[0] > 0 > inside[1]  # towards zero from the hump: the other way
    assert outside[0] < 0 < outside[1]


def gain(values: NDArray[np.float64], shift: float) -> float:
    """Score of a weak known signal hidden in values, against that of Gaussian weighting."""
    signal = np.random.default_rng(9).standard_normal(len(values))
    seen = values + shift * signal
    weighted = Law.of(seen).score(seen)
    best = float(weighted @ signal) / float(np.linalg.norm(weighted))
    plain = float(seen @ signal) / float(np.linalg.norm(seen))
    return best / plain


def test_a_weak_signal_in_two_humps_is_seen_three_times_as_well() -> None:
    # Fisher information: 1/0.3^2 = 11 within humps against 1/(1 + 0.3^2) for the plain score: a
    # ratio of sqrt(12) = 3.5 at best.
    assert gain(two_humps(), 0.05) > 2.5


def test_in_gaussian_noise_nothing_is_lost() -> None:
    assert gain(normal(), 0.05) > 0.98


def test_heavy_tails_are_limited() -> None:
    values = np.random.default_rng(1).standard_cauchy(COUNT)
    law = Law.of(values)
    assert abs(law.score(np.array([5.0]))[0]) < law.score(np.array([0.7]))[0]
    assert law.score(np.array([REACH + 1, -1e30])).tolist() == [0.0, 0.0]
    signal = np.random.default_rng(9).standard_normal(COUNT)
    weighted = Law.of(values + 0.1 * signal).score(values + 0.1 * signal)
    # Fisher information 1/2: 0.1 sqrt(n/2) = 22 at best. The plain score has no finite deviation.
    assert float(weighted @ signal) / float(np.linalg.norm(weighted)) > 18


@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), max_size=60).map(
        lambda v: np.array(v, np.float32)
    )
)
def test_any_values_give_finite_weights(values: NDArray[np.float32]) -> None:
    law = Law.of(values)
    assert np.isfinite(law.table).all()
    assert np.isfinite(law.score(values)).all()
    assert 0.0 <= law.information < np.inf


def test_no_values_and_equal_values_say_nothing_loud() -> None:
    assert Law.of(np.zeros(0)).information == 0.0
    assert np.abs(Law.of(np.full(1000, 10.0)).table).max() == 0.0
