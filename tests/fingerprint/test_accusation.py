"""p-values: exact against brute force, never too small, and thresholds as the theorems say."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom

from smdl_flower.fingerprint.accusation import (
    Level,
    PayloadTest,
    carrier_log_p,
    integer_weights,
    weight_levels,
)
from smdl_flower.fingerprint.decoders import Evidence, symmetric

soft_bits = st.lists(
    st.floats(-1e30, 1e30, allow_nan=False, allow_subnormal=False), min_size=1, max_size=9
).map(lambda values: np.array(values, dtype=np.float64))


def all_words(length: int) -> NDArray[np.uint8]:
    return np.array(list(itertools.product((0, 1), repeat=length)), dtype=np.uint8)


@pytest.mark.parametrize("length", [1, 2, 5, 9, 12])
@pytest.mark.parametrize("fair", [True, False])
def test_log_p_is_the_share_of_all_words_that_score_as_much(length: int, fair: bool) -> None:
    rng = np.random.default_rng(length)
    biases = np.full(length, 0.5) if fair else rng.integers(1, 65_536, length) / 65_536
    test = PayloadTest(rng.standard_normal(length), biases)
    words = all_words(length)
    chances = np.where(words == 1, biases, 1 - biases).prod(axis=1)
    scores = words.astype(int) @ test.weights
    possible = np.unique(scores).tolist()
    for score in (*possible[:: max(1, len(possible) // 30)], *possible[-3:]):
        for asked in (score - 1, score, score + 1):
            expected = math.fsum(chances[scores >= asked].tolist())  # relative error below 1e-14
            found = test.log_p(asked)
            if expected == 0.0:
                assert found == -math.inf
                continue
            # Rounded up: never below (but for 1e-13 of the reference's own rounding), and above by
            # at most 4 (12 + 12 x 127) machine epsilons = 1.4e-12.
            assert -1e-13 <= found - math.log(expected) <= 3e-12


@pytest.mark.parametrize("length", [32, 304, 1024])
def test_equal_soft_bits_make_the_p_value_a_binomial_tail(length: int) -> None:
    signs = np.random.default_rng(length).choice([-1.0, 1.0], length)
    test = PayloadTest(0.7 * signs, np.full(length, 0.5))
    for matches in range(length // 2, length + 1, max(1, length // 40)):
        word = (signs > 0).astype(np.uint8)
        word[: length - matches] ^= 1
        expected = float(binom.logsf(matches - 1, length, 0.5))
        if expected > math.log(1e-290):  # the exact range
            assert test.log_p(test.score(word)) == pytest.approx(expected, rel=1e-9)


def test_the_word_that_was_read_has_the_smallest_p_value_and_its_opposite_none() -> None:
    soft = np.random.default_rng(3).standard_normal(64) + 0.01
    test = PayloadTest(soft, np.full(64, 0.5))
    read = (soft > 0).astype(np.uint8)
    zeros = int((test.weights == 0).sum())  # such positions agree with everybody
    assert test.log_p(test.score(read)) == pytest.approx(-(64 - zeros) * math.log(2), rel=1e-12)
    assert test.log_p(test.score(1 - read)) == 0.0


@given(soft_bits, st.integers(0, 2**32))
def test_the_chernoff_bound_is_never_below_the_exact_p_value(
    soft: NDArray[np.float64], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    biases = rng.integers(1, 65_536, len(soft)) / 65_536
    test = PayloadTest(soft, biases)
    score = test.score(rng.integers(0, 2, len(soft)).astype(np.uint8))
    # The bound's own rounding: nine logarithms of at most 11 and 400 x 9 in the exponent, 1e-12.
    assert test.log_p(score) <= test.chernoff_log_p(score) + 1e-11


@given(soft_bits)
def test_p_values_fall_as_scores_rise(soft: NDArray[np.float64]) -> None:
    test = PayloadTest(soft, np.full(len(soft), 0.5))
    highest = int(test.weights[test.weights > 0].sum())
    lowest = int(test.weights[test.weights < 0].sum())
    values = [test.log_p(score) for score in range(lowest - 1, highest + 2)]
    assert values == sorted(values, reverse=True)
    assert values[:2] == [0.0, 0.0]
    assert values[-1] == -math.inf or lowest == highest


def strange_soft_bits(kind: str, rng: np.random.Generator) -> NDArray[np.float64]:
    match kind:
        case "Cauchy":
            return rng.standard_cauchy(304)
        case "constant":
            return np.full(304, -2.5)
        case "60 % erased":
            return rng.standard_normal(304) * (rng.random(304) > 0.6)
        case "one huge":
            return np.concatenate([rng.standard_normal(303), [1e6]])
        case "all zero":
            return np.zeros(304)
        case _:
            return rng.standard_normal(304)


@pytest.mark.parametrize(
    "kind", ["normal", "Cauchy", "constant", "60 % erased", "one huge", "all zero"]
)
def test_innocents_p_values_are_never_too_small_whatever_was_read(kind: str) -> None:
    rng = np.random.default_rng(11)
    test = PayloadTest(strange_soft_bits(kind, rng), np.full(304, 0.5))
    words = rng.integers(0, 2, (40_000, 304), dtype=np.uint8)
    scores, counts = np.unique(words.astype(np.int32) @ test.weights, return_counts=True)
    values = np.array([test.log_p(int(score)) for score in scores])
    for u in (0.5, 0.1, 0.01, 1e-3, 1e-4):
        reached = int(counts[values <= math.log(u)].sum())
        # Of 40,000 innocents at most 40,000 u are expected; five standard deviations above.
        assert reached <= 40_000 * u + 5 * math.sqrt(40_000 * u)


def test_innocents_p_values_are_not_needlessly_large() -> None:
    rng = np.random.default_rng(12)
    test = PayloadTest(rng.standard_normal(304), np.full(304, 0.5))
    words = rng.integers(0, 2, (40_000, 304), dtype=np.uint8)
    values = np.array([test.log_p(int(s)) for s in words.astype(np.int32) @ test.weights])
    # The score takes some 2,000 values in its bulk, so a p-value misses u by little: 4,000 expected
    # at u = 0.1, standard deviation 60.
    assert abs(int((values <= math.log(0.1)).sum()) - 4000) < 5 * 60


def test_beyond_double_precision_the_p_value_stays_finite_and_valid() -> None:
    test = PayloadTest(np.ones(2000), np.full(2000, 0.5))
    for matches in (2000, 1999, 1900, 1850):
        score = matches * weight_levels(2000)
        words = sum(math.comb(2000, k) for k in range(matches, 2001))  # exact integers
        found, exact = test.log_p(score), math.log(words) - 2000 * math.log(2)
        assert exact < math.log(1e-290)
        assert math.isfinite(found)
        # Valid: not below the exact tail (2,000 logarithms of 0.7, each to 1e-16 of 1,400: 3e-10).
        assert exact - 1e-9 <= found <= test.chernoff_log_p(score)
        # Useful: Chernoff's bound on a binomial tail loses a factor below sqrt(8 n) (Ash 1965).
        assert found <= exact + math.log(math.sqrt(8 * 2000))


def test_a_score_below_the_mean_has_no_chernoff_evidence() -> None:
    test = PayloadTest(np.array([1.0, -1.0]), np.full(2, 0.5))
    assert test.chernoff_log_p(0) == 0.0
    assert test.chernoff_log_p(-127) == 0.0


def test_soft_bits_without_information_accuse_nobody() -> None:
    test = PayloadTest(np.zeros(304), np.full(304, 0.5))
    word = np.ones(304, np.uint8)
    assert test.score(word) == 0
    assert test.log_p(0) == test.chernoff_log_p(0) == 0.0


@given(soft_bits)
def test_integer_weights_keep_signs_and_stay_within_their_range(soft: NDArray[np.float64]) -> None:
    weights = integer_weights(soft)
    assert weights.dtype == np.int64
    assert np.abs(weights).max() <= weight_levels(len(weights))
    assert (weights * np.sign(soft) >= 0).all()
    order = np.argsort(np.abs(soft))
    assert (np.diff(np.abs(weights)[order]) >= 0).all()
    if float(np.mean(np.square(soft))) > 0:
        assert np.abs(weights).max() == weight_levels(len(weights))


def test_scores_do_not_depend_on_the_unit_of_the_soft_bits() -> None:
    soft = np.random.default_rng(0).standard_normal(304)
    assert integer_weights(soft).tolist() == integer_weights(soft * 2**40).tolist()
    assert integer_weights(-soft).tolist() == (-integer_weights(soft)).tolist()


@pytest.mark.parametrize("words", [1, 100, 10_000])
@pytest.mark.parametrize("hypotheses", [1, 2])
@pytest.mark.parametrize("total", [1e-12, 1e-6, 0.01])
def test_thresholds_are_those_of_the_union_bound(words: int, hypotheses: int, total: float) -> None:
    level = Level(total=total, words=words, hypotheses=hypotheses)
    spent = 0.0
    for stage in range(1, 40):
        share = 6 / (math.pi * stage) ** 2
        expected = math.sqrt(2 * math.log(words * hypotheses / (share * total)))
        assert level.carrier_threshold(stage) == pytest.approx(expected, rel=1e-14)
        log_p = level.log_p(stage)
        assert carrier_log_p(expected + 1e-9) < log_p < carrier_log_p(expected - 1e-9)
        spent += words * hypotheses * math.exp(log_p)
    # All tests of all stages, each at its own level, spend no more than the total.
    assert 0.95 * total < spent <= total


def test_a_registry_without_copies_is_judged_like_one_with_a_single_copy() -> None:
    assert Level(1e-6, 0, 2).log_p() == Level(1e-6, 1, 2).log_p()


@pytest.mark.parametrize(
    "wrong",
    [
        {"total": 0.0},
        {"total": 1.0},
        {"total": -1e-6},
        {"total": math.nan},
        {"words": -1},
        {"hypotheses": 0},
    ],
)
def test_a_level_that_bounds_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a level"):
        Level(**{"total": 1e-6, "words": 10, "hypotheses": 2, **wrong})


@pytest.mark.parametrize("score", [0.0, -0.0, -40.0, -math.inf, math.nan])
def test_a_carrier_score_that_is_not_positive_is_no_evidence(score: float) -> None:
    assert carrier_log_p(score) == 0.0


@pytest.mark.parametrize("score", [1e-9, 1.0, 6.79, 360.0])
def test_a_positive_carrier_score_is_worth_half_its_square(score: float) -> None:
    assert carrier_log_p(score) == -score * score / 2


@pytest.mark.parametrize("forged", [1e3, 1e30])
def test_one_forged_soft_bit_does_not_silence_the_others(forged: float) -> None:
    rng = np.random.default_rng(3)
    word = rng.integers(0, 2, 304).astype(np.uint8)
    soft = 2.77 * (2.0 * word - 1) + 0.3 * rng.standard_normal(304)
    soft[17] = forged
    evidence = Evidence.of(soft, 2.77, np.full(304, 0.5), [])
    test = PayloadTest(symmetric(evidence), np.full(304, 0.5))
    # 303 of 304 bits right at nearly equal weights: about 2^-290 or less.
    assert test.log_p(test.score(word)) < -290 * math.log(2)
