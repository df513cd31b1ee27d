"""Averaging the copies of a coalition."""

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smdl_flower.attacks import collusion
from smdl_flower.weights import Weights


@given(
    stack=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(0, 4), st.integers(1, 4)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_an_average_is_the_mean_rounded_once(stack: np.ndarray[Any, Any]) -> None:
    average = collusion.average([{"w": layer, "b": layer[:, 0]} for layer in stack])
    expected = stack.astype(np.float64).mean(axis=0).astype(np.float32)
    assert average["w"].dtype == np.float32
    assert average["w"].shape == stack.shape[1:]
    np.testing.assert_array_max_ulp(average["w"], expected, maxulp=1)
    np.testing.assert_array_equal(average["b"], average["w"][:, 0])


@pytest.mark.parametrize("size", [2, 3, 7])
def test_copies_that_agree_average_to_themselves(size: int) -> None:
    copy = {"w": np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)}
    assert np.array_equal(collusion.average([copy] * size)["w"], copy["w"])


def test_what_differs_shrinks_with_the_size_of_the_coalition() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(size=(50, 40)).astype(np.float32)
    marks = rng.choice([-0.1, 0.1], (16, 50, 40)).astype(np.float32)
    average = collusion.average([{"w": base + mark} for mark in marks])["w"]
    # the mean of 16 independent marks of 0.1 has standard deviation 0.1 / 4; 2000 of them are
    # seen, so their root mean square is within five standard errors of it
    spread = float(np.sqrt(np.square(average - base).mean()))
    assert abs(spread / 0.025 - 1) <= 5 / (2 * 2000) ** 0.5


def test_order_of_the_copies_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    copies = [{"w": rng.normal(size=(9, 9)).astype(np.float32)} for _ in range(3)]
    forward, backward = collusion.average(copies), collusion.average(copies[::-1])
    np.testing.assert_array_max_ulp(forward["w"], backward["w"], maxulp=1)


def stack_of(size: int, seed: int = 4) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=(size, 7, 5)).astype(np.float32)


def as_copies(stack: np.ndarray[Any, Any]) -> list[Weights]:
    return [{"w": layer, "b": layer[:, 0], "s": layer[0, 0]} for layer in stack]


def by_hand(name: str, values: list[float]) -> float:
    """One weight of each statistic, in plain Python."""
    low, high, middle = min(values), max(values), statistics.median(values)
    centre = (low + high) / 2
    above = sum(v > centre for v in values)
    below = sum(v < centre for v in values)
    return {
        "average": statistics.fmean(values),
        "median": middle,
        "minimum": low,
        "maximum": high,
        "midrange": centre,
        "modneg": low + high - middle,
        "minority": high if above < below else low,
        "outlier": max(values, key=lambda v: abs(v - middle)),
        "extrapolate": 3 * statistics.fmean(values) - 2 * values[0],
    }[name]


STATISTICS: dict[str, Callable[[list[Weights]], Weights]] = {
    "average": collusion.average,
    "median": collusion.median,
    "minimum": collusion.minimum,
    "maximum": collusion.maximum,
    "midrange": collusion.midrange,
    "modneg": collusion.modified_negative,
    "minority": collusion.minority_extreme,
    "outlier": collusion.outlier,
    "extrapolate": lambda copies: collusion.extrapolate(copies, 2.0),
}


@pytest.mark.parametrize("size", [3, 4, 7])
@pytest.mark.parametrize(
    "name",
    [
        "average",
        "median",
        "minimum",
        "maximum",
        "midrange",
        "modneg",
        "minority",
        "outlier",
        "extrapolate",
    ],
)
def test_a_statistic_is_what_plain_python_says_of_each_weight(name: str, size: int) -> None:
    stack = stack_of(size)
    result = STATISTICS[name](as_copies(stack))
    expected = [by_hand(name, [float(v) for v in values]) for values in stack.reshape(size, -1).T]
    np.testing.assert_allclose(result["w"].ravel(), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(result["b"], result["w"][:, 0])
    assert result["s"].shape == ()
    assert result["s"] == result["w"][0, 0]


EQUIVARIANT = {
    "median": collusion.median,
    "modneg": collusion.modified_negative,
    "minority": collusion.minority_extreme,
    "outlier": collusion.outlier,
    "interleave": lambda copies: collusion.interleave_weights(copies, 1),
    "interleave-channels": lambda copies: collusion.interleave_channels(copies, 1),
    "interleave-tensors": lambda copies: collusion.interleave_tensors(copies, 1),
    "randneg": lambda copies: collusion.randomised_negative(copies, 1),
    "weighted-mean": lambda copies: collusion.weighted_mean(copies, 1),
}


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_what_a_coalition_does_moves_with_the_base_it_does_not_know(name: str) -> None:
    """The property by which the accusation theorem covers these attacks: f(x + t) = f(x) + t."""
    stack = stack_of(5)
    here = EQUIVARIANT[name](as_copies(stack))
    there = EQUIVARIANT[name](as_copies(stack + np.float32(2.0)))
    np.testing.assert_allclose(there["w"], here["w"] + 2.0, atol=1e-5)


@pytest.mark.parametrize("name", ["interleave", "interleave-channels", "interleave-tensors"])
def test_interleaving_takes_each_piece_from_one_copy_and_all_copies_alike(name: str) -> None:
    copies = [{f"w{i:03d}": np.full((20, 6), c, np.float32) for i in range(200)} for c in range(4)]
    result = EQUIVARIANT[name](copies)
    which = np.stack([result[key] for key in copies[0]])
    if name == "interleave-channels":
        assert (which == which[:, :, :1]).all()
        which = which[:, :, 0]
    if name == "interleave-tensors":
        assert (which == which[:, :1, :1]).all()
        which = which[:, 0, 0]
    assert set(np.unique(which)) == {0.0, 1.0, 2.0, 3.0}
    for c in range(4):  # five standard errors of a share of a quarter
        assert abs((which == c).mean() - 0.25) <= 5 * (0.25 * 0.75 / which.size) ** 0.5


def test_the_coin_between_extremes_is_fair_and_takes_nothing_else() -> None:
    copies = [{"w": np.full((100, 100), value, np.float32)} for value in (-1.0, 0.5, 2.0)]
    result = collusion.randomised_negative(copies, 3)["w"]
    assert set(np.unique(result)) == {-1.0, 2.0}
    assert abs((result == 2.0).mean() - 0.5) <= 5 * (0.25 / 10_000) ** 0.5


def test_a_weighted_mean_has_the_same_positive_weights_for_every_tensor() -> None:
    copies = [{"v": v, "w": 2 * v} for v in (np.eye(3, dtype=np.float32)[:, None])]
    result = collusion.weighted_mean(copies, 5)
    shares = result["v"][0]
    assert (shares > 0).all()
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(result["w"], 2 * result["v"], rtol=1e-6)


def test_the_largest_values_do_not_overflow() -> None:
    copies = [{"w": np.full((2, 2), value, np.float32)} for value in (3e38, -3e38, 3e38)]
    assert np.isfinite(collusion.modified_negative(copies)["w"]).all()
    assert np.isfinite(collusion.extrapolate(copies, 9.0)["w"]).all()


def test_a_seed_means_the_same_whatever_the_order_of_tensors() -> None:
    copies = as_copies(stack_of(4))
    turned = [dict(reversed(copy.items())) for copy in copies]
    for name in ("interleave", "interleave-channels", "interleave-tensors", "randneg"):
        one, same = EQUIVARIANT[name](copies), EQUIVARIANT[name](turned)
        assert all(np.array_equal(one[key], same[key]) for key in one)
