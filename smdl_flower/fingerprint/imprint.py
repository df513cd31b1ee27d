"""A codeword in an image, invisible and read back with the key.

The image is scrambled by secret signs and transformed (DCT); each bit moves one coefficient to the
nearest point of one of two interleaved lattices: dither modulation (Chen & Wornell, IEEE
Transactions on Information Theory 47(4), 2001, section V). Pixels are whole numbers from 0 to 255,
and most of a digit is black, so that is repeated until both hold (alternating projections).

Whoever alters the image erases the word. It names nobody, and copies are not traced by it: it shows
that a model stands images with a fingerprint in them.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from smdl_flower.errors import CapacityError
from smdl_flower.fingerprint.codes import Bits
from smdl_flower.fingerprint.keys import CampaignKey

Pixels = NDArray[np.uint8]
Coefficients = NDArray[np.float32]

# Distance of the points of one lattice, in grey levels, for one value per bit; the other's lie half
# way. It grows with the values per bit, so that the noise is the same: 43 dB.
STEP = 5.0
SLACK = 0.1  # of a step that a coefficient may be off; at 0.25 it is read wrong
PROJECTIONS = 30
VALUES_PER_BIT = 2  # with fewer, black images cannot carry their word
PEAK = 255.0


@dataclass(frozen=True)
class Imprint:
    """Where a campaign's words lie in images of one shape.

    Attributes:
        shape: Of an image: channels, height, width.
        signs: That scramble its values, ``(d,)``.
        positions: Coefficient of each bit, ``(m,)``; never the mean brightness.
        dither: Where each bit's lattices begin, in steps, ``(m,)``.
    """

    shape: tuple[int, int, int]
    signs: Coefficients = field(repr=False)
    positions: NDArray[np.int64] = field(repr=False)
    dither: Coefficients = field(repr=False)

    @classmethod
    def of(cls, key: CampaignKey, shape: tuple[int, int, int], length: int) -> "Imprint":
        """Draw where words of that length lie.

        Raises:
            CapacityError: The images are too small, with the longest word that fits.

        Example:
            >>> from smdl_flower.fingerprint.keys import OwnerKey
            >>> Imprint.of(OwnerKey(bytes(32)).campaign("00" * 32), (1, 8, 8), 304)
            Traceback (most recent call last):
            ...
            smdl_flower.errors.CapacityError: images of 1 x 8 x 8 values carry at most 32 bits, \
not 304; fingerprint.imprint-images = false leaves it out
        """
        require_room(shape, length)
        size = math.prod(shape)
        stream = key.stream("imprint")
        signs = np.where(stream.uint16(size) % 2 == 1, 1.0, -1.0).astype(np.float32)
        order = np.argsort(stream.uint32(size - 1), kind="stable") + 1
        dither = (stream.uint16(length) / 65_536).astype(np.float32)
        return cls(shape, signs, order[:length], dither)

    @property
    def step(self) -> float:
        """Distance between points of one lattice, in grey levels."""
        return STEP * math.sqrt(len(self.signs) / len(self.positions))

    def embed(self, images: Pixels, word: Bits) -> Pixels:
        """Return images that carry a word.

        Args:
            images: uint8 ``(n, *shape)``; not changed.
            word: ``(m,)``.

        Example:
            >>> from smdl_flower.fingerprint.keys import OwnerKey
            >>> imprint = Imprint.of(OwnerKey(bytes(32)).campaign("00" * 32), (1, 28, 28), 8)
            >>> image = np.full((1, 1, 28, 28), 100, np.uint8)
            >>> imprint.read(imprint.embed(image, np.array([1, 0, 0, 1, 1, 0, 1, 0]))).tolist()
            [[1, 0, 0, 1, 1, 0, 1, 0]]
        """
        begins = (word / 2 + self.dither).astype(np.float32)
        values = self._flat(images)
        for _ in range(PROJECTIONS):
            off = self._coefficients(values) / self.step - begins
            off -= np.rint(off)
            missing = self.step * (np.clip(off, -SLACK, SLACK) - off)
            values = np.clip(values + self._values(missing), 0.0, PEAK)
        marked: Pixels = np.rint(values).astype(np.uint8).reshape(images.shape)
        return marked

    def read(self, images: Pixels) -> Bits:
        """Return the bits that images carry, if they carry a word, ``(n, m)``.

        Args:
            images: uint8 ``(n, *shape)``.
        """
        found = self._coefficients(self._flat(images)) / self.step - self.dither
        return np.asarray(np.rint(2 * found).astype(np.int64) % 2, np.uint8)

    def _flat(self, images: Pixels) -> Coefficients:
        return images.reshape(len(images), -1).astype(np.float32)

    def _coefficients(self, values: Coefficients) -> Coefficients:
        found: Coefficients = fft.dct(values * self.signs, norm="ortho", axis=1)
        return found[:, self.positions]

    def _values(self, coefficients: Coefficients) -> Coefficients:
        spread = np.zeros((len(coefficients), len(self.signs)), np.float32)
        spread[:, self.positions] = coefficients
        values: Coefficients = fft.idct(spread, norm="ortho", axis=1)
        return values * self.signs


def require_room(shape: tuple[int, int, int], length: int) -> None:
    """Raise :class:`CapacityError`, with the longest word that fits, if images are too small."""
    most = math.prod(shape) // VALUES_PER_BIT
    if length > most:
        raise CapacityError(
            f"images of {' x '.join(map(str, shape))} values carry at most {most} bits, not "
            f"{length}; fingerprint.imprint-images = false leaves it out"
        )


def psnr(before: Pixels, after: Pixels) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each image, in dB; infinite if nothing changed.

    Example:
        >>> black = np.zeros((1, 1, 2, 2), np.uint8)
        >>> psnr(black, black + np.uint8(1)).round(2).tolist()
        [48.13]
    """
    error = (after.astype(np.float64) - before).reshape(len(before), -1)
    with np.errstate(divide="ignore"):
        return np.asarray(10 * np.log10(PEAK**2 / np.square(error).mean(1)))
