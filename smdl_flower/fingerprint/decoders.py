"""Decoders: from the soft bits of a suspect to the weights of the payload score.

Three of them, since none is best against every coalition: ``symmetric`` (Skoric et al.,
cs/0607131) on soft bits, ``oosterwijk`` (Oosterwijk, Skoric, Doumen, IH&MMSec 2013: optimal against
interleaving) on hard bits, and ``likelihood``, the log-likelihood ratio under the coalition model
that fits best.
All may use the words of customers accused before (theorem 2): what those explain is taken out.

A decoder reads soft bits, biases and accused words only, never the word that is tested, so *any*
weights give valid p-values; choosing a model by fit is free.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from smdl_flower.fingerprint.accusation import ScoreWeights, SoftBits
from smdl_flower.fingerprint.codes import Biases, Bits

FITTED = 512  # positions a coalition model is fitted to: enough to choose, quick for long codes
SMALLEST_BIAS = 0.05  # one wrong bit at a rarer position would outweigh dozens of right ones
LARGEST_RATIO = 6.0  # a log-likelihood ratio beyond that says more about the model than the data

UNSEEN = (1, 2, 3, 5, 8, 12, 19)  # traitors beside those already accused
SCALES = (1.0, 0.6, 0.35)
NOISES = (0.1, 0.25, 0.5, 1.0, 2.0)
# Chance that a coalition of c puts a one where k of its members have one (marking assumption).
STRATEGIES: Mapping[str, Callable[[NDArray[np.int64], int], NDArray[Any]]] = {
    "interleave": lambda k, c: k / c,
    "majority": lambda k, c: (k > c / 2) + 0.5 * (2 * k == c),
    "minority": lambda k, c: (k < c / 2) + 0.5 * (2 * k == c),
    "all-one": lambda k, _: (k > 0) * 1.0,
    "all-zero": lambda k, c: (k == c) * 1.0,
    "coin": lambda k, _: np.full(k.shape, 0.5),
}
AVERAGE = "average"


@dataclass(frozen=True)
class Evidence:
    """What a decoder may look at.

    Attributes:
        soft_bits: y in units of the payload's amplitude, so that +-1 is a clean bit, ``(m,)``.
        biases: Probability of a one at each position, ``(m,)``.
        accused: Words of customers accused before, ``(a, m)``.
    """

    soft_bits: SoftBits = field(repr=False)
    biases: Biases = field(repr=False)
    accused: NDArray[np.uint8] = field(repr=False)

    @classmethod
    def of(
        cls, soft_bits: SoftBits, amplitude: float, biases: Biases, accused: list[Bits]
    ) -> "Evidence":
        """Return the evidence in soft bits as read; forged large values are clipped.

        The clip is twice the upper quartile of their sizes, not a multiple of the mean square: one
        forged bit must not round all others to zero.
        """
        sizes = np.abs(soft_bits)
        cap = 2 * float(np.quantile(sizes, 0.75)) or float(sizes.max(initial=0.0))
        words = np.array(accused, dtype=np.uint8).reshape(len(accused), len(biases))
        return cls(np.clip(soft_bits, -cap, cap) / amplitude, biases, words)

    @functools.cached_property
    def residual(self) -> SoftBits:
        """Soft bits without what bias and accused words explain (least squares), ``(m,)``."""
        if not len(self.accused) and np.ptp(self.biases) == 0:
            return self.soft_bits
        columns = [np.ones_like(self.biases), 2 * self.biases - 1, *(self.accused - self.biases)]
        design = np.stack(columns, axis=1)
        fit, *_ = np.linalg.lstsq(design, self.soft_bits, rcond=None)
        return np.asarray(self.soft_bits - design @ fit)


def symmetric(evidence: Evidence) -> ScoreWeights:
    """Return the weights of the symmetric score, on soft bits, ``(m,)``.

    Example:
        >>> evidence = Evidence(np.array([1.0, -0.5]), np.full(2, 0.5), np.zeros((0, 2), np.uint8))
        >>> symmetric(evidence).tolist()
        [2.0, -1.0]
    """
    biases = _moderate(evidence.biases)
    return np.asarray(evidence.residual / np.sqrt(biases * (1 - biases)))


def oosterwijk(evidence: Evidence) -> ScoreWeights:
    """Return the weights of Oosterwijk's score, on hard bits, ``(m,)``.

    Example:
        >>> evidence = Evidence(np.array([1.0, -0.5]), np.full(2, 0.5), np.zeros((0, 2), np.uint8))
        >>> oosterwijk(evidence).tolist()
        [2.0, -2.0]
    """
    biases = _moderate(evidence.biases)
    ones, zeros = evidence.residual > 0, evidence.residual < 0
    return ones / biases - zeros / (1 - biases)


def likelihood(evidence: Evidence) -> ScoreWeights:
    """Return log-likelihood ratios under the coalition model that fits best, ``(m,)``."""
    return best_model(evidence).ratios(evidence)


DECODERS: Mapping[str, Callable[[Evidence], ScoreWeights]] = {
    "symmetric": symmetric,
    "oosterwijk": oosterwijk,
    "likelihood": likelihood,
}


@dataclass(frozen=True)
class CoalitionModel:
    """How a coalition may have made the soft bits.

    Attributes:
        strategy: One of ``STRATEGIES``, or the average of soft bits.
        size: Traitors in all, c; the accused are among them.
        scale: What is left of the payload's amplitude.
        noise: Standard deviation added to it, in the same unit.
    """

    strategy: str
    size: int
    scale: float
    noise: float

    def fit(self, evidence: Evidence, ones: NDArray[np.int64]) -> float:
        """Return the log-likelihood of the soft bits; ``ones`` of the accused at each position."""
        total = np.log(self._densities(evidence, ones, self.size - len(evidence.accused))).sum()
        # A weak preference for small coalitions, where the data do not decide.
        return float(total) - 0.5 * math.log(self.size)

    def ratios(self, evidence: Evidence) -> ScoreWeights:
        """Return ln of the likelihood that a word's bit is one against zero, ``(m,)``."""
        ones = evidence.accused.sum(axis=0, dtype=np.int64)
        others = self.size - len(evidence.accused) - 1
        one, zero = (self._densities(evidence, ones + x, others) for x in (1, 0))
        return np.asarray(np.clip(np.log(one / zero), -LARGEST_RATIO, LARGEST_RATIO))

    def _densities(
        self, evidence: Evidence, ones: NDArray[np.int64], others: int
    ) -> NDArray[np.float64]:
        """Density of each soft bit; ``others`` traitors' bits are random, ``ones`` are known."""
        chances = _binomial(others, evidence.biases)
        counts = ones[:, None] + np.arange(others + 1)
        soft = evidence.soft_bits / self.scale
        if self.strategy == AVERAGE:
            means = 2 * counts / self.size - 1
            return np.asarray((chances * self._normal(soft[:, None] - means)).sum(axis=1))
        one = STRATEGIES[self.strategy](counts, self.size)
        # Where all traitors agree they cannot but put that bit.
        one = np.where(counts == 0, 0.0, np.where(counts == self.size, 1.0, one))
        chance = (chances * one).sum(axis=1)
        return np.asarray(chance * self._normal(soft - 1) + (1 - chance) * self._normal(soft + 1))

    def _normal(self, deviation: NDArray[np.float64]) -> NDArray[np.float64]:
        width = self.noise / self.scale
        # The floor makes the model robust against outliers.
        return np.asarray(np.exp(-0.5 * np.square(deviation / width)) / width + 1e-9)


def best_model(evidence: Evidence) -> CoalitionModel:
    """Return the coalition model under which the soft bits are likeliest."""
    some = Evidence(
        *(evidence.soft_bits[:FITTED], evidence.biases[:FITTED], evidence.accused[:, :FITTED])
    )
    ones = some.accused.sum(axis=0, dtype=np.int64)
    return max(_models(len(some.accused)), key=lambda model: model.fit(some, ones))


def _models(accused: int) -> Iterator[CoalitionModel]:
    for unseen in UNSEEN:
        size = accused + unseen
        strategies = (AVERAGE, *STRATEGIES) if size > 1 else (AVERAGE,)
        for strategy in strategies:
            for scale in SCALES:
                for noise in NOISES:
                    yield CoalitionModel(strategy, size, scale, noise)


def _moderate(biases: Biases) -> Biases:
    return np.clip(biases, SMALLEST_BIAS, 1 - SMALLEST_BIAS)


def _binomial(count: int, biases: Biases) -> NDArray[np.float64]:
    """Chances of 0 .. count ones among fresh words' bits, ``(m, count + 1)``."""
    values, where = np.unique(biases, return_inverse=True)
    return np.asarray(_chances(count, tuple(values.tolist()))[where])


@functools.lru_cache(maxsize=256)
def _chances(count: int, biases: tuple[float, ...]) -> NDArray[np.float64]:
    return np.asarray(binom.pmf(np.arange(count + 1), count, np.array(biases)[:, None]))
