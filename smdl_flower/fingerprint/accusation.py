"""When to name a customer: p-values that hold for every attack, and their union bound.

Carrier. A carrier is drawn independently of the direction ``q`` it is compared with, and is
sub-Gaussian, so an innocent's score ``z = <g, q>/||q||`` satisfies P(z >= t) <= exp(-t^2/2)
(theorem 3), whatever was done to the model.

Payload. Given the soft bits read from the suspect, an innocent's score is a sum of independent
two-point variables with *integer* weights, whose exact law is a direct dynamic program
(theorem 1). A Gaussian approximation accuses innocents up to 36 times too often at 1e-5.

Ours; prior art: Tardos (STOC 2003), Skoric et al. (cs/0607131), Furon-Desoubeaux (WIFS 2014,
p-values of the accusation process).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smdl_flower.fingerprint.codes import Biases, Bits

SoftBits = NDArray[np.float64]
ScoreWeights = NDArray[np.float64]
IntegerWeights = NDArray[np.int64]

DEFAULT_BOUND = 1e-6  # on naming any innocent
_SMALLEST_EXACT = 1e-290  # below, a double loses digits: the Chernoff bound takes over


@dataclass(frozen=True)
class Level:
    """The false-accusation probability each single comparison may spend.

    Accusing goes in stages (theorem 2): stage k spends the share 6/(pi k)^2 of the total, and the
    shares of all stages sum to one, however many there are.

    Attributes:
        total: Bound on naming *any* innocent in this verdict.
        words: Customers' words compared, in all campaigns together.
        hypotheses: Pre-declared tests per word and stage.

    Example:
        >>> level = Level(total=1e-6, words=10_000, hypotheses=1)
        >>> round(level.carrier_threshold(), 2), round(level.carrier_threshold(stage=2), 2)
        (6.86, 7.06)
    """

    total: float
    words: int
    hypotheses: int

    def __post_init__(self) -> None:
        if not 0.0 < self.total < 1.0 or self.words < 0 or self.hypotheses < 1:
            raise ValueError(f"not a level: {self}")

    def log_p(self, stage: int = 1) -> float:
        """Return ln of the largest p-value that accuses in a stage, the first being 1."""
        share = 6 / (math.pi * stage) ** 2
        return math.log(self.total * share / (max(1, self.words) * self.hypotheses))

    def carrier_threshold(self, stage: int = 1) -> float:
        """Return the score from which a carrier accuses in a stage."""
        return math.sqrt(-2 * self.log_p(stage))


def carrier_log_p(score: float) -> float:
    """Return ln of the bound on an innocent reaching this carrier score: -z^2/2, or 0 if z <= 0."""
    return -(score**2) / 2 if score > 0 else 0.0


class PayloadTest:
    """The exact test of codewords with one decoder's weights, for one suspect.

    The score of a codeword x in {0,1}^m is ``sum_i w_i x_i``, with integers w_i proportional to the
    decoder's weights.

    Example:
        >>> test = PayloadTest(np.array([1.0, -1.0, 1.0, -1.0]), np.full(4, 0.5))
        >>> word = np.array([1, 0, 1, 0], np.uint8)
        >>> round(math.exp(test.log_p(test.score(word))), 4)  # one word of sixteen agrees fully
        0.0625
    """

    def __init__(self, weights: ScoreWeights, biases: Biases) -> None:
        self.weights = integer_weights(weights)
        self._biases = biases
        self._offset = int(self.weights[self.weights < 0].sum())
        self._survival = _survival(self.weights, biases)

    def score(self, word: Bits) -> int:
        """Return a codeword's score, an integer that is the same on every machine."""
        return int(word.astype(np.int64) @ self.weights)

    def log_p(self, score: int) -> float:
        """Return ln of the chance that a fresh random word scores at least this much."""
        index = score - self._offset
        if index <= 0:
            return 0.0
        if index >= len(self._survival):
            return -math.inf
        tail = float(self._survival[index])
        if tail > _SMALLEST_EXACT:
            return min(0.0, math.log(tail))
        return self.chernoff_log_p(score)

    def chernoff_log_p(self, score: int) -> float:
        """Return an upper bound on :meth:`log_p` by another route (Chernoff, best exponent).

        Any exponent gives a valid bound, so an inexact search costs power, never validity.
        """
        mean = float((self.weights * self._biases).sum())
        if score <= mean:
            return 0.0
        top = float(np.abs(self.weights).max())
        low, high = 0.0, 400.0 / top

        def bound(exponent: float) -> float:
            logs = np.logaddexp(
                np.log1p(-self._biases), np.log(self._biases) + exponent * self.weights
            )
            return float(logs.sum()) - exponent * score

        for _ in range(80):  # the bound is convex in the exponent: ternary search
            left, right = low + (high - low) / 3, high - (high - low) / 3
            low, high = (low, right) if bound(left) < bound(right) else (left, high)
        return min(0.0, bound((low + high) / 2))


def integer_weights(weights: ScoreWeights) -> IntegerWeights:
    """Return a decoder's weights as small integers in proportion, ``(m,)``.

    Example:
        >>> integer_weights(np.array([0.5, -1.0, 1.0])).tolist()
        [64, -127, 127]
    """
    largest = float(np.abs(weights).max(initial=0.0))
    if largest == 0.0:
        return np.zeros(len(weights), dtype=np.int64)
    return np.rint(weights / largest * weight_levels(len(weights))).astype(np.int64)


def weight_levels(length: int) -> int:
    """Return the largest integer weight; fewer levels for long codes keep the law quick to compute.

    Example:
        >>> weight_levels(304), weight_levels(4096)
        (127, 31)
    """
    return next(
        (levels for limit, levels in ((512, 127), (1500, 63), (5000, 31)) if length <= limit), 15
    )


def _survival(weights: IntegerWeights, biases: Biases) -> NDArray[np.float64]:
    """P(score - lowest score >= i) for i = 0, 1, ...; rounded up.

    Only non-negative numbers are added, so every tail has a relative error of at most about
    (positions + support) machine epsilons, which the last factor covers. Positions with a negative
    weight count their zeros instead: same law, shifted.
    """
    steps = np.abs(weights)
    chances = np.where(weights < 0, 1 - biases, biases)
    law = np.zeros(int(steps.sum()) + 1)
    law[0], reached = 1.0, 1
    for step, chance in zip(steps.tolist(), chances.tolist(), strict=True):
        if step == 0:
            continue
        shifted = law[:reached] * chance
        law[:reached] *= 1 - chance
        law[step : step + reached] += shifted
        reached += step
    rounding = 1 + 4 * np.finfo(float).eps * (len(weights) + len(law))
    return np.asarray(np.cumsum(law[::-1])[::-1] * rounding)
