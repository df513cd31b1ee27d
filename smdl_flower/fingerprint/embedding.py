"""Write a customer's carrier and codeword into a copy of the base model, in closed form.

w' = w0 + a_c phi s g_c            (carrier)
w_c = w' + phi s e (A b - y(w'))/n  (payload, cancelling what base model and carrier put there)

with a_c^2 = a_p^2 = strength^2 / 2. One pass over the weights, no gradient step, no image.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import CapacityError
from smdl_flower.fingerprint import carriers, codes
from smdl_flower.fingerprint.carriers import CHUNK, Chips, sum_by_group
from smdl_flower.fingerprint.keys import CampaignKey, CustomerKey
from smdl_flower.fingerprint.layout import Layout, Vector
from smdl_flower.fingerprint.payload import Spreading, amplitude
from smdl_flower.fingerprint.taught import Directions
from smdl_flower.weights import Weights


@dataclass(frozen=True)
class CarrierMark:
    """Where the carriers of one model lie; secret, except for the layout.

    Attributes:
        layout: Marked tensors.
        base: Marked weights of the unmarked model, ``(d,)``.
        profile: phi, ``(d,)``.
        chips: How a compressed carrier is spread; None if carriers have a value per weight.
    """

    layout: Layout
    base: Vector = field(repr=False)
    profile: Vector = field(repr=False)
    chips: Chips | None = field(repr=False)

    def carrier(self, key: CustomerKey) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the carrier of a key piece by piece: ``(where, values)``, together ``(d,)``."""
        return self.chips.chunks(key) if self.chips else carriers.chunks(key, self.layout.size)


@dataclass(frozen=True)
class Mark(CarrierMark):
    """All that the copies of one base model share.

    Attributes:
        spreading: Groups and signs of the payload.
        biases: Probability of a one at each position of a codeword, ``(m,)``.
        strength: alpha, root mean square of a mark in units of scale.
        taught: Where copies were taught answers too; None if they were not.
    """

    spreading: Spreading = field(repr=False)
    biases: codes.Biases = field(repr=False)
    strength: float
    taught: Directions | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        base: Weights,
        profile: Vector,
        key: CampaignKey,
        *,
        code: codes.Code,
        strength: float,
        carrier_length: int | None = None,
    ) -> "Mark":
        """Prepare the mark of a base model.

        Args:
            base: w0.
            profile: phi, ``(d,)``.
            key: Of the campaign.
            code: Of the codewords.
            strength: alpha.
            carrier_length: Values of a carrier; default is what suits the model's size.

        Raises:
            CapacityError: The model is too small for the code length at this strength.
        """
        layout = Layout.of(base)
        amplitude(layout.size, code.length, strength**2 / 2)
        spreading = Spreading.of(key, profile, code.length)
        if not spreading.norms.all():
            raise CapacityError(
                f"{layout.size:,} weights left one of {code.length} bits without any; lower "
                "fingerprint.code-length"
            )
        chips = Chips.for_size(key, layout.size, carrier_length)
        biases = code.biases(key)
        return cls(layout, layout.flatten(base), profile, chips, spreading, biases, strength)

    @property
    def amplitude(self) -> float:
        """A, the size of each soft bit in a fresh copy."""
        return amplitude(self.layout.size, self.spreading.length, self.strength**2 / 2)


def embed(mark: Mark, key: CustomerKey, host: Vector | None = None) -> Vector:
    """Return the marked weights of a customer's copy.

    Args:
        mark: Of the base model; not changed.
        key: The customer's.
        host: Weights to put the mark into, ``(d,)``, if they are not the base model's: what a
            change made to them before is left in place, and the payload reads right all the same.

    Returns:
        Weights ``(d,)``, float32.
    """
    spreading, start = mark.spreading, mark.base if host is None else host
    weights, carrier_sums = _add_carrier(mark, key, start)
    found = spreading.project(start, mark.layout) + carrier_sums / spreading.norms
    bits = codes.codeword(key, mark.biases).astype(np.float64)
    targets = (2 * bits - 1) * mark.amplitude
    shifts = ((targets - found) / spreading.norms).astype(np.float32)
    for where, scale in mark.layout.pieces(CHUNK):
        step = shifts[spreading.groups[where]]
        step *= spreading.signed_profile[where]
        step *= scale
        weights[where] += step
    return weights


def _add_carrier(mark: Mark, key: CustomerKey, start: Vector) -> tuple[Vector, NDArray[np.float64]]:
    """Start plus carrier, and the carrier's own sum over each payload group."""
    gain = np.float32(mark.strength / math.sqrt(2))
    spreading, profile = mark.spreading, mark.profile
    weights = np.empty_like(start)
    sums = np.zeros(spreading.length)
    for where, values in mark.carrier(key):
        step = weights[where]
        np.multiply(values, profile[where], out=step)
        step *= gain
        products = step * spreading.signed_profile[where]
        sums += sum_by_group(spreading.groups[where], products, spreading.length)
    for where, scale in mark.layout.pieces(CHUNK):
        weights[where] *= scale
        weights[where] += start[where]
    return weights, sums
