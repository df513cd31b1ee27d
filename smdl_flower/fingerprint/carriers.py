"""Carriers: a secret, independent, Gaussian-like vector per customer, over all marked weights.

A 16-bit key-stream word picks one of 65,536 values: the conditional means of a standard normal
variable within its quantile bins. By Jensen's inequality E exp(tX) <= exp(t^2/2), so the accusation
bound is exact although the values are discrete; rounding towards zero keeps that (E cosh(tX) grows
with |X|). Gaussian, not +-1: with two-valued carriers three colluders erase the mark.

Above a million weights the vector is compressed: 65,536 Gaussian values per customer, each spread
over a secret group of weights with secret signs. One pass reduces a suspect to 65,536 numbers, and
each customer costs as much as in a small model. The bound is the same; what is lost is resistance
to coalitions of hundreds.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from smdl_flower.fingerprint.keys import CustomerStreams, Streams

Groups = NDArray[np.uint16]
GroupSums = NDArray[np.float64]

FULL_CARRIER_LIMIT = 1_000_000
CHIPS = 65_536
CHUNK = 1 << 17  # weights per step: a chunk's arrays stay in a core's cache
SUMMED = 1 << 14  # of a sum by group: what numpy converts first, words and doubles, stays there too
PIECE = 1 << 13  # of a score; BLAS starts threads for longer products, which cost more than help


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


def chunks(key: CustomerStreams, size: int) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield a customer's carrier piece by piece: ``(where, values)``, together ``(size,)``."""
    stream, table = key.stream("carrier"), value_table()
    for start in range(0, size, CHUNK):
        where = slice(start, min(start + CHUNK, size))
        yield where, table[stream.uint16(where.stop - where.start)]


def length_for(size: int) -> int:
    """Return how many values a carrier for that many weights has.

    Example:
        >>> length_for(131_992), length_for(11_172_032)
        (131992, 65536)
    """
    return size if size <= FULL_CARRIER_LIMIT else CHIPS


def deal(words: NDArray[np.uint32], groups: int) -> tuple[Groups, NDArray[np.float32]]:
    """Turn random words into a group, 0 to ``groups - 1`` (at most 65,535), and a sign each."""
    # The low bit is the sign; the others, scaled, the group.
    numbers = ((words >> 1).astype(np.uint64) * groups) >> np.uint64(31)
    return numbers.astype(np.uint16), np.float32(1.0) - np.float32(2.0) * (words & 1)


def sum_by_group(groups: Groups, values: NDArray[np.float32], length: int) -> GroupSums:
    """Return the sum of ``values`` within each group, ``(length,)``, in double precision.

    Example:
        >>> sum_by_group(np.array([0, 1, 0], np.uint16), np.ones(3, np.float32), 2).tolist()
        [2.0, 1.0]
    """
    sums = np.zeros(length)
    step = max(SUMMED, 2 * length)  # a piece costs a pass over the groups too
    for start in range(0, len(values), step):
        piece = slice(start, start + step)
        sums += np.bincount(groups[piece], weights=values[piece], minlength=length)
    return sums


@dataclass(frozen=True)
class Chips:
    """How a compressed carrier lies over the weights of one campaign.

    Attributes:
        groups: Which value of the carrier each weight gets, ``(d,)``.
        signs: With which sign, ``(d,)``.
        length: Values of a carrier, L.
    """

    groups: Groups
    signs: NDArray[np.int8]
    length: int

    @classmethod
    def of(cls, key: Streams, size: int, length: int) -> "Chips":
        """Deal ``size`` weights into ``length`` groups by the campaign's key."""
        stream = key.stream("chips")
        groups, signs = np.empty(size, dtype=np.uint16), np.empty(size, dtype=np.int8)
        for start in range(0, size, CHUNK):
            where = slice(start, min(start + CHUNK, size))
            groups[where], signs[where] = deal(stream.uint32(where.stop - start), length)
        return cls(groups, signs, length)

    @classmethod
    def for_size(cls, key: Streams, size: int, length: int | None) -> "Chips | None":
        """Deal ``size`` weights if a carrier is shorter; ``length`` None is what suits the size."""
        length = length or length_for(size)
        return cls.of(key, size, length) if length < size else None

    def chunks(self, key: CustomerStreams) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield a customer's carrier over the weights piece by piece, as :func:`chunks` does."""
        values = value_table()[key.stream("carrier").uint16(self.length)]
        for start in range(0, len(self.groups), CHUNK):
            where = slice(start, min(start + CHUNK, len(self.groups)))
            yield where, values[self.groups[where]] * self.signs[where]

    def compress(self, direction: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the sums of a direction ``(d,)`` over the groups, ``(L,)``."""
        return self.sums(direction * self.signs)

    def sums(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the sums of values ``(d,)`` over the groups, signs left out, ``(L,)``."""
        return sum_by_group(self.groups, values, self.length).astype(np.float32)


def score(key: CustomerStreams, direction: NDArray[np.floating[Any]]) -> float:
    """Return ``<g, q>`` of a customer's carrier g and a direction q, in double precision.

    Args:
        key: The customer's key in this campaign.
        direction: q, as long as the carrier, of norm one if the result is to be a score z. In
            double precision it is a little quicker, and the same.
    """
    stream, table = key.stream("carrier"), _double_table()
    total = 0.0
    for start in range(0, len(direction), CHUNK):
        chunk = direction[start : start + CHUNK]
        words = stream.uint16(len(chunk))
        for first in range(0, len(chunk), PIECE):
            piece = slice(first, first + PIECE)
            # Every 16-bit word is in the table: "clip" only spares numpy the check of each.
            total += float(table.take(words[piece], mode="clip") @ chunk[piece])
    return total


@functools.cache
def _double_table() -> NDArray[np.float64]:
    return value_table().astype(np.float64)
