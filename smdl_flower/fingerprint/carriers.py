"""Carriers: a secret, independent, Gaussian-like vector per customer, over all marked weights.

A 16-bit key-stream word picks one of 65,536 values: the conditional means of a standard normal
variable within its quantile bins. By Jensen's inequality E exp(tX) <= exp(t^2/2), so the accusation
bound is exact although the values are discrete; rounding towards zero keeps that (E cosh(tX) grows
with |X|). Gaussian, not +-1: with two-valued carriers three colluders erase the mark.
"""

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from smdl_flower.fingerprint.keys import CustomerKey

CHUNK = 1 << 17  # weights per step: a chunk's arrays stay in a core's cache


@functools.cache
def value_table() -> NDArray[np.float32]:
    """Return the 65,536 carrier values, ascending; mean 0, variance a little below 1.

    Example:
        >>> table = value_table().astype(float)
        >>> bool(abs(table.mean()) < 1e-12), bool(0.999 < table.var() < 1)
        (True, True)
    """
    edges = ndtri(np.arange(1, 65_536) / 65_536)
    density = np.concatenate([[0.0], np.exp(-np.square(edges) / 2) / np.sqrt(2 * np.pi), [0.0]])
    means = (density[:-1] - density[1:]) * 65_536
    half = means[32_768:]
    rounded = np.nextafter(half.astype(np.float32), np.float32(0.0))
    return np.concatenate([-rounded[::-1], rounded])


def chunks(key: CustomerKey, size: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield a customer's carrier piece by piece: ``(where, values)``, together ``(size,)``."""
    stream, table = key.stream("carrier"), value_table()
    for start in range(0, size, CHUNK):
        where = slice(start, min(start + CHUNK, size))
        yield where, table[stream.uint16(where.stop - where.start)]


def score(key: CustomerKey, direction: NDArray[np.float32]) -> float:
    """Return ``<g, q>`` of a customer's carrier g and a direction q, in double precision.

    Args:
        key: The customer's key in this campaign.
        direction: q, ``(d,)``, of length one if the result is to be a score z.
    """
    total = 0.0
    for where, values in chunks(key, len(direction)):
        total += float(values.astype(np.float64) @ direction[where].astype(np.float64))
    return total
