"""Read a suspect: its soft payload bits, and the direction that carriers are compared with.

Both are functions of suspect, base model and campaign key only; no customer's word enters
(assumption A3), so whatever happens here, an innocent's score keeps its law. Power comes from
bounding and whitening: in each layer and sensitivity bin the suspect's deviation is bounded,
centred and brought to unit spread, so that heavily altered weights do not drown the rest; then it
is weighted as suits the law it has in its layer (:mod:`.law`).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import NotComparableError
from smdl_flower.fingerprint.accusation import SoftBits
from smdl_flower.fingerprint.carriers import CHUNK
from smdl_flower.fingerprint.codes import Bits
from smdl_flower.fingerprint.embedding import CarrierMark, Mark
from smdl_flower.fingerprint.law import Law
from smdl_flower.fingerprint.layout import Vector
from smdl_flower.weights import Weights

PROFILE_BINS = 16
PROFILE_SAMPLE = 100_000  # of a tensor's sensitivities suffice to place the bins' edges
MAD_TO_DEVIATION = 1.4826
LARGEST_ERASED = 0.995
OUTLIER = 10.0  # deviations of a bin; a mark, noise, rounding and averaging stay far inside
SMALLEST_BOUND = 1e-3  # in units of scale: a bin of untouched weights has no spread of its own
SMALLEST_BIN = 8
_TOO_LARGE = "most of the weights are too large to compute with"


@dataclass(frozen=True)
class Reading:
    """What was read from a suspect, before any customer is looked at.

    Attributes:
        soft_bits: y, ``(m,)``; their signs are the payload.
        direction: Unit vector as long as a carrier, or all zero if the suspect does not differ
            from w0.
        gains: How much of a carrier's value shows in the direction, up to one common factor; as
            long as a carrier.
        erased: Share of marked weights that are exactly zero.
        alignment: How the suspect was aligned to w0 before it was read.
    """

    soft_bits: SoftBits = field(repr=False)
    direction: Vector = field(repr=False)
    gains: Vector = field(repr=False)
    erased: float
    alignment: str

    @property
    def bits(self) -> Bits:
        """The payload's hard bits, ``(m,)``."""
        return (self.soft_bits > 0).astype(np.uint8)

    @property
    def equals_base(self) -> bool:
        """Whether the suspect's marked weights are the base model's own."""
        return not self.direction.any()


def read_payload(mark: Mark, weights: Vector) -> SoftBits:
    """Return the soft payload bits of marked weights ``(d,)``: blind, the base is not used."""
    return mark.spreading.project(weights, mark.layout)


def read(mark: Mark, suspect: Weights, alignment: str = "none") -> Reading:
    """Read a suspect with the base model's own tensor names and shapes.

    Args:
        mark: Of the base model.
        suspect: Its weights, aligned to the base model if they had to be.
        alignment: What was undone for that; goes into the reading.

    Raises:
        NotComparableError: Tensors are missing or differ in shape, nearly all are zero, or most
            values are too large to compute with.
    """
    examined = Deviation.of(mark, suspect)
    soft_bits = read_payload(mark, _without_outliers(mark, examined))
    values = examined.values
    if mark.taught:
        # Before the payload's span: what was taught there was made up for over whole groups.
        values = mark.taught.without(values, mark.layout, mark.profile, examined.kept)
    rest = mark.spreading.remove_span(values, examined.kept)
    direction, gains = examined.direction(mark, rest)
    if not np.isfinite(soft_bits).all():
        raise NotComparableError(_TOO_LARGE)
    return Reading(soft_bits, direction, gains, examined.erased, alignment)


@dataclass(frozen=True)
class Deviation:
    """How a suspect's marked weights differ from the unmarked model's, made plausible.

    Attributes:
        values: In units of scale, ``(d,)``, each within what its bin makes plausible.
        kept: Which weights are not exactly zero in the suspect, ``(d,)``.
        bins: The kept weights of each layer, sorted into bins of similar sensitivity.
    """

    values: Vector = field(repr=False)
    kept: NDArray[np.bool_] = field(repr=False)
    bins: "_Bins" = field(repr=False)

    @classmethod
    def of(cls, mark: CarrierMark, suspect: Weights) -> "Deviation":
        """Compare a suspect with the unmarked model.

        Raises:
            NotComparableError: Tensors are missing or differ in shape, or nearly all are zero.
        """
        if not mark.layout.fits(suspect):
            raise NotComparableError(_misfit(mark, suspect))
        weights = mark.layout.flatten(suspect)
        kept = weights != 0.0
        erased = 1.0 - float(np.mean(kept))
        if erased > LARGEST_ERASED:
            raise NotComparableError(
                f"{erased:.1%} of the weights are zero; too little is left to examine"
            )
        bins = _Bins.of(mark, kept)
        return cls(_bounded_deviation(mark, weights, kept, bins), kept, bins)

    @property
    def erased(self) -> float:
        """Share of marked weights that are exactly zero."""
        return 1.0 - float(np.mean(self.kept))

    def of_other(self, mark: CarrierMark, weights: Weights) -> Vector:
        """Return another model's deviation, on the weights that this one kept, ``(d,)``."""
        return _bounded_deviation(mark, mark.layout.flatten(weights), self.kept, self.bins)

    def direction(self, mark: CarrierMark, rest: Vector) -> tuple[Vector, Vector]:
        """Return the unit vector that carriers are compared with, and their gains in it.

        Args:
            mark: Of the unmarked model.
            rest: :attr:`values` or what is left of them, ``(d,)``.

        Raises:
            NotComparableError: Most values are too large to compute with.
        """
        return _direction(mark, rest, self.bins)


@dataclass(frozen=True)
class _Bins:
    """The kept weights of each tensor, sorted into bins of similar sensitivity."""

    tensors: tuple[tuple[NDArray[np.int64], ...], ...]

    @classmethod
    def of(cls, mark: CarrierMark, kept: NDArray[np.bool_]) -> "_Bins":
        tensors = []
        for tensor in mark.layout.tensors:
            profile, here = mark.profile[tensor.where], kept[tensor.where]
            # Of the base model alone: nobody who alters a suspect can move the edges.
            some = profile[:: max(1, len(profile) // PROFILE_SAMPLE)]
            edges = np.quantile(some, np.arange(1, PROFILE_BINS) / PROFILE_BINS)
            numbers = np.searchsorted(edges, profile).astype(np.uint8)
            members = (
                tensor.start + np.flatnonzero((numbers == n) & here) for n in range(PROFILE_BINS)
            )
            tensors.append(tuple(m for m in members if len(m) >= SMALLEST_BIN))
        return cls(tuple(members for members in tensors if members))


def _bounded_deviation(
    mark: CarrierMark, weights: Vector, kept: NDArray[np.bool_], bins: _Bins
) -> Vector:
    """The deviation from w0 in units of scale, each value within what its bin makes plausible.

    A few enormous weights cost a thief nothing (a unit that nobody listens to, or one scaled up and
    its readers down), but they would drown all sums over the payload's groups.
    """
    with np.errstate(over="ignore"):  # what overflows is clipped next
        deviation = weights - mark.base
        for where, scale in mark.layout.pieces(CHUNK):
            deviation[where] /= scale
    deviation *= kept
    bounded = np.zeros_like(deviation)
    for chosen in (members for tensor in bins.tensors for members in tensor):
        values = deviation[chosen]
        bound = OUTLIER * MAD_TO_DEVIATION * float(np.median(np.abs(values)))
        bound = max(bound, SMALLEST_BOUND)
        bounded[chosen] = np.clip(values, -bound, bound)
    return bounded


def _without_outliers(mark: Mark, examined: Deviation) -> Vector:
    """The suspect's weights, those that were zero still zero."""
    weights = examined.values.copy()
    for where, scale in mark.layout.pieces(CHUNK):
        weights[where] *= scale
    weights += mark.base
    weights *= examined.kept
    return weights


def _direction(mark: CarrierMark, rest: Vector, bins: _Bins) -> tuple[Vector, Vector]:
    direction, gains = np.zeros_like(rest), np.zeros_like(rest)
    for members in bins.tensors:
        standard, spreads = zip(*(_standardised(rest[chosen]) for chosen in members), strict=True)
        together = np.concatenate(standard)
        if not np.isfinite(together).all():
            raise NotComparableError(_TOO_LARGE)
        law = Law.of(together)
        for chosen, values, spread in zip(members, standard, spreads, strict=True):
            relative = mark.profile[chosen] / np.float32(spread)
            direction[chosen] = relative * law.score(values)
            gains[chosen] = np.square(relative) * np.float32(law.information)
    if mark.chips:
        direction, gains = mark.chips.compress(direction), mark.chips.sums(gains)
    return unit(direction), gains / np.float32(gains.max(initial=0.0) or 1.0)


def _standardised(values: Vector) -> tuple[Vector, float]:
    """Values about their median in units of their spread, and that."""
    values = values - np.median(values)
    spread = MAD_TO_DEVIATION * float(np.median(np.abs(values)))
    # Where most weights are untouched the median deviation is of rounding size.
    spread = max(spread, 1e-3 * float(np.sqrt(np.mean(np.square(values)))), 1e-12)
    return values / np.float32(spread), spread


def unit(direction: Vector) -> Vector:
    """Return a direction at length one, or as it is if it is all zero."""
    length = float(np.sqrt(np.sum(np.square(direction, dtype=np.float64))))
    # A little shorter than one, so that rounding to float32 never makes a score larger.
    return direction / np.float32(length * (1 + 1e-6)) if length > 0.0 else direction


def _misfit(mark: CarrierMark, suspect: Weights) -> str:
    different = [
        f"{t.name} {list(t.shape)} (found {_found(suspect, t.name)})"
        for t in mark.layout.tensors
        if t.name not in suspect or suspect[t.name].shape != t.shape
    ]
    return (
        f"{len(different)} of {len(mark.layout.tensors)} tensors are missing or have other shapes; "
        f"expected {', '.join(different[:3])}{' ...' if len(different) > 3 else ''}"
    )


def _found(suspect: Weights, name: str) -> str:
    return str(list(suspect[name].shape)) if name in suspect else "none"
