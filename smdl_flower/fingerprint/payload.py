"""The payload: a codeword spread over secret groups of weights, readable without the base model.

Weight j belongs to group G(j) with sign e(j), both from the campaign's key stream. The soft bit of
group i is y_i(w) = (1/n_i) sum_{j in G_i} e_j phi_j w_j / s_j with n_i^2 = sum_{j in G_i} phi_j^2.
Each copy is shifted so that y_i = +-A exactly, whatever the base model gave (host-interference-
cancelling spread spectrum; improved spread spectrum of Malvar and Florencio, IEEE TSP 2003, with
full cancellation).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import CapacityError
from smdl_flower.fingerprint.carriers import CHUNK, Groups, GroupSums, deal, sum_by_group
from smdl_flower.fingerprint.keys import Streams
from smdl_flower.fingerprint.layout import Layout, Vector

LEAST_WEIGHTS_PER_BIT = 16  # a group is empty with a chance of exp(-16), and then refused


@dataclass(frozen=True)
class Spreading:
    """Groups and signs of one campaign.

    Attributes:
        groups: Group of each weight, ``(d,)``.
        signed_profile: ``e_j phi_j``, ``(d,)``.
        norms: ``n_i``, ``(m,)``.
    """

    groups: Groups
    signed_profile: Vector
    norms: GroupSums

    @classmethod
    def of(cls, key: Streams, profile: Vector, length: int) -> "Spreading":
        """Deal the weights into ``length`` groups by the campaign's key."""
        stream = key.stream("payload")
        groups = np.empty(len(profile), dtype=np.uint16)
        signed = np.empty_like(profile)
        for start in range(0, len(profile), CHUNK):
            where = slice(start, min(start + CHUNK, len(profile)))
            groups[where], signs = deal(stream.uint32(where.stop - where.start), length)
            signed[where] = profile[where] * signs
        norms = np.sqrt(sum_by_group(groups, np.square(signed), length))
        return cls(groups, signed, norms)

    @property
    def length(self) -> int:
        """Number of groups, the code length m."""
        return len(self.norms)

    def project(self, values: Vector, layout: Layout) -> GroupSums:
        """Return the soft bits ``y(w)`` of marked weights ``(d,)``, shape ``(m,)``."""
        sums = np.zeros(self.length)
        for where, scale in layout.pieces(CHUNK):
            products = values[where] * self.signed_profile[where]
            sums += sum_by_group(self.groups[where], products, self.length) / scale
        return np.asarray(sums / self.norms)

    def remove_span(self, values: Vector, kept: NDArray[np.bool_]) -> Vector:
        """Return values (in units of scale) without their part in the payload's span.

        All copies share that span, so averaging many of them leaves its common part standing: it
        would drown the carriers of a large coalition.

        Args:
            values: ``(d,)``, zero where not kept.
            kept: Which positions count.
        """
        energy = np.square(self.norms)
        if not kept.all():
            energy = sum_by_group(self.groups, np.square(self.signed_profile) * kept, self.length)
        sums = sum_by_group(self.groups, values * self.signed_profile, self.length)
        coefficients = np.divide(sums, energy, out=np.zeros_like(sums), where=energy > 0)
        shift = coefficients.astype(np.float32)[self.groups] * self.signed_profile
        return np.asarray(values - shift * kept, dtype=np.float32)


def amplitude(size: int, length: int, energy: float) -> float:
    """Return A, the size of each soft bit, for a payload of that energy per weight.

    Moving every y_i from its host value (variance one) to +-A costs energy (A^2 + 1) m/d per
    weight.

    Args:
        size: Marked weights, d.
        length: Code length, m.
        energy: Mean square of the payload's part of the mark, in units of scale.

    Raises:
        CapacityError: A would be below one, a payload weaker than its host: unreliable bits; or
            so few weights per bit that one could have none.

    Example:
        >>> round(amplitude(131_992, 304, 0.02), 2)
        2.77
    """
    weights_per_bit = max(2.0 / energy, LEAST_WEIGHTS_PER_BIT)
    if size < weights_per_bit * length:
        largest = int(size / weights_per_bit)
        raise CapacityError(
            f"{size:,} marked weights cannot carry {length} bits at this strength; lower "
            f"fingerprint.code-length to {largest} or less, raise fingerprint.strength, or use a "
            f"model of at least {math.ceil(weights_per_bit * length):,} marked weights"
        )
    return math.sqrt(energy * size / length - 1.0)
