"""Codewords: pseudo-random, independent bits per position and customer.

Bits are drawn by comparing 16 key-stream bits with 65,536 times the position's bias, so that each
is *exactly* Bernoulli: independence of the words is the guarantee (theorem 1 of docs/analysis.md).
Never an error-correcting code as identity: three colluders' minority vote is the codeword of a
fourth.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smdl_flower.fingerprint.keys import CampaignKey, CustomerStreams

Bits = NDArray[np.uint8]
Biases = NDArray[np.float64]
Kind = Literal["flat", "nuida", "arcsine"]

UNIT = 65_536


@dataclass(frozen=True)
class Code:
    """How the codewords of a campaign are drawn.

    ``flat`` words have fair bits: best for a single traitor and against averaging. The other two
    are symmetric Tardos codes, whose secret biases differ from position to position, against
    coalitions that forge bit by bit: ``nuida`` the discrete biases made for coalitions of a given
    size (Nuida et al., DCC 2009, cs/0610036), ``arcsine`` those of Tardos (STOC 2003) with its
    cut-off 1/(300 c).

    Attributes:
        length: Bits of a codeword, m.
        kind: Law of the biases.
        coalition: Size c that the biases are made for; ``flat`` does not use it.

    Example:
        >>> Code(304)
        Code(length=304, kind='flat', coalition=4)
    """

    length: int
    kind: Kind = "flat"
    coalition: int = 4

    def __post_init__(self) -> None:
        if self.length < 1 or self.coalition < 2:
            raise ValueError(f"not a code: {self}")

    def biases(self, key: CampaignKey, label: str = "biases") -> Biases:
        """Return the probability of a one at each position, multiples of 1/65,536, ``(m,)``.

        Args:
            key: Of the campaign.
            label: Of the key stream that they are drawn from.
        """
        if self.kind == "flat":
            return np.full(self.length, 0.5)
        words = key.stream(label).uint16(self.length).astype(np.float64)
        uniform = (words + 0.5) / UNIT
        biases = _arcsine(uniform, self.coalition)
        if self.kind == "nuida":
            points, chances = nuida_biases(self.coalition)
            edges = np.rint(np.cumsum(chances)[:-1] * UNIT) / UNIT
            biases = points[np.searchsorted(edges, uniform)]
        return np.asarray(np.clip(np.rint(biases * UNIT), 1, UNIT - 1) / UNIT)


def nuida_biases(coalition: int) -> tuple[Biases, NDArray[np.float64]]:
    """Return the biases of Nuida's law for coalitions of that size, and their chances.

    The biases are the nodes of the Gauss-Legendre rule with ceil(c/2) points, moved to (0, 1).

    Example:
        >>> biases, chances = nuida_biases(4)
        >>> biases.round(4).tolist(), chances.tolist()
        ([0.2113, 0.7887], [0.5, 0.5])
    """
    nodes, weights = np.polynomial.legendre.leggauss(math.ceil(coalition / 2))
    biases = (nodes + 1) / 2
    chances = weights / np.sqrt(biases * (1 - biases))
    return biases, chances / chances.sum()


def _arcsine(uniform: NDArray[np.float64], coalition: int) -> Biases:
    smallest = math.asin(math.sqrt(1 / (300 * coalition)))
    return np.asarray(np.sin(smallest + uniform * (math.pi / 2 - 2 * smallest)) ** 2)


def codeword(key: CustomerStreams, biases: Biases, label: str = "codeword") -> Bits:
    """Return a customer's codeword.

    Args:
        key: The customer's key in this campaign.
        biases: Probability of a one at each position, a multiple of 1/65,536, ``(m,)``.
        label: Of the key stream that the word is drawn from; one word for each label.

    Returns:
        Zeros and ones, ``(m,)``.

    Example:
        >>> from smdl_flower.fingerprint.keys import OwnerKey
        >>> campaign = OwnerKey(bytes(32)).campaign("00" * 32)
        >>> codeword(campaign.customer("clinic-a"), Code(304).biases(campaign)).shape
        (304,)
    """
    cuts = np.rint(biases * UNIT).astype(np.int64)
    return (key.stream(label).uint16(len(biases)) < cuts).astype(np.uint8)


def to_text(bits: Bits) -> str:
    """Return bits as text of zeros and ones.

    Example:
        >>> to_text(np.array([1, 0, 1], np.uint8))
        '101'
    """
    return "".join("1" if bit else "0" for bit in bits)
