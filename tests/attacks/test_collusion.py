"""Averaging the copies of a coalition."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smdl_flower.attacks import collusion


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
