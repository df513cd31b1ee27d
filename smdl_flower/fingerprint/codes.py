"""Codewords: one pseudo-random, independent bit per position and customer.

Bits are drawn by comparing 16 key-stream bits with 65,536 times the bias, so that each is *exactly*
Bernoulli: independence of the words is the guarantee (theorem 1 of docs/analysis.md). Never an
error-correcting code as identity: three colluders' minority vote is the codeword of a fourth.
"""

import numpy as np
from numpy.typing import NDArray

from smdl_flower.fingerprint.keys import CustomerKey

Bits = NDArray[np.uint8]
Biases = NDArray[np.float64]


def flat_biases(length: int) -> Biases:
    """Return the biases of the flat code: each bit is one with probability 1/2, ``(length,)``."""
    return np.full(length, 0.5)


def codeword(key: CustomerKey, biases: Biases) -> Bits:
    """Return a customer's codeword.

    Args:
        key: The customer's key in this campaign.
        biases: Probability of a one at each position, a multiple of 1/65,536, ``(length,)``.

    Returns:
        Zeros and ones, ``(length,)``.

    Example:
        >>> from smdl_flower.fingerprint.keys import OwnerKey
        >>> key = OwnerKey(bytes(32)).campaign("00" * 32).customer("clinic-a")
        >>> codeword(key, flat_biases(304)).shape
        (304,)
    """
    cuts = np.rint(biases * 65_536).astype(np.int64)
    return (key.stream("codeword").uint16(len(biases)) < cuts).astype(np.uint8)


def to_text(bits: Bits) -> str:
    """Return bits as text of zeros and ones.

    Example:
        >>> to_text(np.array([1, 0, 1], np.uint8))
        '101'
    """
    return "".join("1" if bit else "0" for bit in bits)
