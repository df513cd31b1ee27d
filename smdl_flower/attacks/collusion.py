"""Combine the copies of several customers, weight by weight.

Names as in the traitor-tracing literature (Wu, Trappe, Wang and Liu 2004, section IV). Statistics
are taken in double precision and rounded once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smdl_flower.weights import Weights

Stack = NDArray[np.float32]  # the copies of one tensor, (copies, ...)
Combine = Callable[[Stack], NDArray[Any]]


def average(copies: Sequence[Weights]) -> Weights:
    """Return the mean of the copies: what they share stays, what differs shrinks.

    Example:
        >>> copies = [{"w": np.float32([[1.0]])}, {"w": np.float32([[3.0]])}]
        >>> average(copies)["w"].tolist()
        [[2.0]]
    """
    return _each(copies, lambda stack: stack.mean(axis=0, dtype=np.float64))


def weighted_mean(copies: Sequence[Weights], seed: int) -> Weights:
    """Return a mean with random positive weights that sum to one, the same for every tensor."""
    shares = np.random.default_rng(seed).dirichlet(np.ones(len(copies)))
    return _each(copies, lambda stack: np.tensordot(shares, stack.astype(np.float64), axes=1))


def extrapolate(copies: Sequence[Weights], factor: float) -> Weights:
    """Return the mean moved away from the first copy by ``factor`` times their difference."""
    return _each(
        copies,
        lambda stack: (
            stack.mean(axis=0, dtype=np.float64) * (1 + factor) - factor * stack[0].astype(float)
        ),
    )


def median(copies: Sequence[Weights]) -> Weights:
    """Return the median of each weight."""
    return _each(copies, lambda stack: np.median(stack.astype(np.float64), axis=0))


def minimum(copies: Sequence[Weights]) -> Weights:
    """Return the smallest value of each weight."""
    return _each(copies, lambda stack: stack.min(axis=0))


def maximum(copies: Sequence[Weights]) -> Weights:
    """Return the largest value of each weight."""
    return _each(copies, lambda stack: stack.max(axis=0))


def midrange(copies: Sequence[Weights]) -> Weights:
    """Return the middle between the smallest and the largest value of each weight."""
    return _each(copies, _middle)


def minority_extreme(copies: Sequence[Weights]) -> Weights:
    """Return the extreme on whose side of the middle fewer copies lie, the smallest at a tie."""

    def combine(stack: Stack) -> NDArray[np.float64]:
        above = (stack > _middle(stack)).sum(axis=0)
        below = (stack < _middle(stack)).sum(axis=0)
        extreme = np.where(above < below, stack.max(axis=0), stack.min(axis=0))
        return np.asarray(extreme, dtype=np.float64)

    return _each(copies, combine)


def modified_negative(copies: Sequence[Weights]) -> Weights:
    """Return smallest plus largest minus median of each weight."""
    return _each(
        copies,
        lambda stack: 2 * _middle(stack) - np.median(stack.astype(np.float64), axis=0),
    )


def randomised_negative(copies: Sequence[Weights], seed: int) -> Weights:
    """Return the smallest or the largest value of each weight, by a fair coin."""
    rng = np.random.default_rng(seed)
    return _each(
        copies,
        lambda stack: np.where(
            rng.random(stack.shape[1:]) < 0.5, stack.min(axis=0), stack.max(axis=0)
        ),
    )


def outlier(copies: Sequence[Weights]) -> Weights:
    """Return the value of each weight that lies furthest from the median, of the first such copy.

    This seeks the one customer whose mark sticks out, and makes that the loudest.
    """

    def combine(stack: Stack) -> NDArray[np.float32]:
        distance = np.abs(stack - np.median(stack.astype(np.float64), axis=0))
        return _pick(stack, np.asarray(distance.argmax(axis=0)))

    return _each(copies, combine)


def interleave_weights(copies: Sequence[Weights], seed: int) -> Weights:
    """Return each weight from a random copy."""
    rng = np.random.default_rng(seed)
    return _each(copies, lambda stack: _pick(stack, rng.integers(len(stack), size=stack.shape[1:])))


def interleave_channels(copies: Sequence[Weights], seed: int) -> Weights:
    """Return each output channel from a random copy."""
    rng = np.random.default_rng(seed)

    def combine(stack: Stack) -> NDArray[np.float32]:
        rows = stack.shape[1:2] + (1,) * (stack.ndim - 2)  # () for a number
        which = rng.integers(len(stack), size=rows)
        return _pick(stack, np.broadcast_to(which, stack.shape[1:]))

    return _each(copies, combine)


def interleave_tensors(copies: Sequence[Weights], seed: int) -> Weights:
    """Return each tensor from a random copy."""
    rng = np.random.default_rng(seed)
    return _each(copies, lambda stack: stack[rng.integers(len(stack))])


def spread(copies: Sequence[Weights]) -> Weights:
    """Return the standard deviation of each weight over the copies."""
    return _each(copies, lambda stack: stack.std(axis=0, dtype=np.float64))


def _middle(stack: Stack) -> NDArray[np.float64]:
    middle: NDArray[np.float64] = (stack.min(axis=0).astype(float) + stack.max(axis=0)) / 2
    return middle


def _pick(stack: Stack, which: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.asarray(np.take_along_axis(stack, which[None], axis=0)[0])


def _each(copies: Sequence[Weights], combine: Combine) -> Weights:
    """Combine tensors in alphabetical order, for a seed to mean the same in any order."""
    combined: Weights = {}
    for name in sorted(copies[0]):
        value = combine(np.stack([copy[name] for copy in copies]))
        with np.errstate(over="ignore"):  # an extreme beyond float32 is cut to its largest
            limit = np.finfo(np.float32).max
            combined[name] = np.clip(np.asarray(value, dtype=np.float64), -limit, limit).astype(
                np.float32
            )
    return {name: combined[name] for name in copies[0]}
