"""Take the carriers of customers already accused out of a direction.

In a coalition's model every traitor's carrier is noise to the others. Once some are named, what
their carriers explain is subtracted (weighted least squares), and the rest is compared with the
remaining customers: successive interference cancellation, as in multi-user detection (Verdu 1998).
Theorem 2 of docs/analysis.md allows it: the new direction depends on words of accused customers
only.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from smdl_flower.fingerprint import carriers
from smdl_flower.fingerprint.extraction import Reading, unit
from smdl_flower.fingerprint.keys import CustomerStreams
from smdl_flower.fingerprint.layout import Vector

SINGULAR = 1e-6


def cancel(reading: Reading, accused: Sequence[CustomerStreams]) -> Vector:
    """Return the reading's direction, at length one, without the carriers of accused customers.

    Their scores on the result are zero. In time and memory O(accused x carrier), streamed.

    Args:
        reading: Of a suspect.
        accused: Keys of the customers named so far.
    """
    if not accused:
        return reading.direction
    size, gains = len(reading.direction), reading.gains
    gram = np.zeros((len(accused), len(accused)))
    scores = np.zeros(len(accused))
    for where, values in _together(accused, size):
        gram += (values * gains[where]) @ values.T
        scores += values @ reading.direction[where]
    # Carriers are nearly orthogonal; where a reading shows nothing of them, nothing is subtracted.
    amounts = np.linalg.pinv(gram, rcond=SINGULAR, hermitian=True) @ scores
    rest = reading.direction.copy()
    for where, values in _together(accused, size):
        rest[where] -= ((amounts @ values) * gains[where]).astype(np.float32)
    return unit(rest)


def _together(
    keys: Sequence[CustomerStreams], size: int
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield the carriers of several customers piece by piece, ``(customers, piece)``."""
    for pieces in zip(*(carriers.chunks(key, size) for key in keys), strict=True):
        yield pieces[0][0], np.stack([values for _, values in pieces]).astype(np.float64)
