"""The law of a suspect's deviations from the base model, and the detector that is best for it.

A carrier is weak beside what an attack adds. Against additive noise of density p the best statistic
for a weak signal sums f(x) = -p'(x)/p(x) (locally optimum detection: Capon 1961; Kassam 1988). For
Gaussian noise f(x) = x. A coalition that takes extremes leaves noise with two humps: f then looks
within each hump and ignores the distance between them. f also limits outliers by itself.

p is estimated from the suspect, so the detector suits what was done to it. No word is used: an
innocent's score keeps its law.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

STEP = 0.05  # of the histogram, in spreads
REACH = 6.0  # beyond it a deviation says nothing
WIDTH = 0.2  # of the smoothing kernel for SAMPLE values; wider for fewer (Silverman's exponent)
SAMPLE = 1e5
PRIOR = 2.0  # counts added to each cell: where there are hardly any values, f is near zero

_CELLS = round(2 * REACH / STEP) + 1


@dataclass(frozen=True)
class Law:
    """How standardised deviations are distributed.

    Attributes:
        table: f at the cells of the histogram, from -REACH to REACH.
        information: Mean of f squared over the values: how much one of them tells of a small
            shift (Fisher information), 1 for Gaussian ones.

    Example:
        >>> values = np.random.default_rng(0).standard_normal(100_000)
        >>> law = Law.of(values)
        >>> scores = law.score(np.array([-2.0, 0.0, 2.0]))
        >>> bool(np.abs(scores - [-2, 0, 2]).max() < 0.2), 0.85 < law.information < 1
        (True, True)
    """

    table: NDArray[np.float64] = field(repr=False)
    information: float

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> "Law":
        """Estimate the law of values ``(n,)`` by a smoothed histogram."""
        cells = _cells(values[np.abs(values) <= REACH])
        counts = np.bincount(cells, minlength=_CELLS).astype(np.float64)
        width = WIDTH * max(1.0, (max(len(values), 1) / SAMPLE) ** -0.2)
        reach = round(4 * width / STEP)
        offsets = np.arange(-reach, reach + 1) * STEP
        kernel = np.exp(-0.5 * np.square(offsets / width))
        kernel /= kernel.sum()
        density = _smooth(counts, kernel) + PRIOR
        table = -_smooth(counts, -offsets / width**2 * kernel) / density
        total = counts.sum()
        return cls(table, float(counts @ np.square(table) / total) if total else 0.0)

    def score(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return f of values ``(n,)``, 0 beyond the reach."""
        return np.where(np.abs(values) <= REACH, self.table[_cells(values)], 0.0)


def _cells(values: NDArray[np.floating]) -> NDArray[np.int64]:
    within = np.clip(values, -REACH, REACH)
    return np.asarray(np.rint((within + REACH) / STEP), dtype=np.int64)


def _smooth(counts: NDArray[np.float64], kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    half = len(kernel) // 2
    return np.convolve(counts, kernel)[half : half + len(counts)]
