"""Read a suspect: its soft payload bits, and the direction that carriers are compared with.

Both are functions of suspect, base model and campaign key only; no customer's word enters
(assumption A3), so whatever happens here, an innocent's score keeps its law. Power comes from
whitening: in each layer and sensitivity bin the suspect's deviation is centred, clipped and
weighted by the inverse of its own variance, so that heavily altered weights do not drown the rest.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import NotComparableError
from smdl_flower.fingerprint.accusation import SoftBits
from smdl_flower.fingerprint.codes import Bits
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.layout import Vector
from smdl_flower.weights import Weights

PROFILE_BINS = 16
CLIP = 3.0
MAD_TO_DEVIATION = 1.4826
LARGEST_ERASED = 0.995


@dataclass(frozen=True)
class Reading:
    """What was read from a suspect, before any customer is looked at.

    Attributes:
        soft_bits: y, ``(m,)``; their signs are the payload.
        direction: Unit vector ``(d,)``, or all zero if the suspect does not differ from w0.
        erased: Share of marked weights that are exactly zero.
        alignment: How the suspect was aligned to w0 before it was read.
    """

    soft_bits: SoftBits = field(repr=False)
    direction: Vector = field(repr=False)
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


def read(mark: Mark, suspect: Weights) -> Reading:
    """Read a suspect with the base model's own tensor names and shapes.

    Raises:
        NotComparableError: Tensors are missing or differ in shape, or nearly all are zero.
    """
    if not mark.layout.fits(suspect):
        raise NotComparableError(_misfit(mark, suspect))
    weights = mark.layout.flatten(suspect)
    erased = float(np.mean(weights == 0.0))
    if erased > LARGEST_ERASED:
        raise NotComparableError(
            f"{erased:.1%} of the weights are zero; too little is left to examine"
        )
    return Reading(read_payload(mark, weights), _direction(mark, weights), erased, "none")


def _direction(mark: Mark, weights: Vector) -> Vector:
    kept = weights != 0.0
    deviation = weights - mark.base
    for tensor in mark.layout.tensors:
        deviation[tensor.where] /= tensor.scale
    deviation *= kept
    deviation = mark.spreading.remove_span(deviation, kept)
    for tensor in mark.layout.tensors:
        where = tensor.where
        deviation[where] = _whitened(deviation[where], mark.profile[where], kept[where])
    length = float(np.sqrt(np.sum(np.square(deviation, dtype=np.float64))))
    return deviation / np.float32(length) if length > 0.0 else deviation


def _whitened(deviation: Vector, profile: Vector, kept: NDArray[np.bool_]) -> Vector:
    edges = np.quantile(profile, np.arange(1, PROFILE_BINS) / PROFILE_BINS)
    bins = np.searchsorted(edges, profile)
    result = np.zeros_like(deviation)
    for number in range(PROFILE_BINS):
        chosen = np.flatnonzero((bins == number) & kept)
        if len(chosen) < 8:
            continue
        values = deviation[chosen]
        values = values - np.median(values)
        spread = MAD_TO_DEVIATION * float(np.median(np.abs(values)))
        # A suspect that left most of a bin untouched has a median deviation of rounding size.
        spread = max(spread, 1e-3 * float(np.sqrt(np.mean(np.square(values)))), 1e-12)
        np.clip(values, -CLIP * spread, CLIP * spread, out=values)
        result[chosen] = profile[chosen] * values / np.float32(spread**2)
    return result


def _misfit(mark: Mark, suspect: Weights) -> str:
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
