"""Query images that nobody can guess: strokes over a texture, all of it drawn from the owner's key.

The parameters of the generator are drawn from the key as well, so that knowing this module does not
give images from the same family. Images are made once and stored: another version may draw others.
"""

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from smdl_flower.fingerprint import codes
from smdl_flower.fingerprint.codes import Biases, Bits, Code
from smdl_flower.fingerprint.keys import CampaignKey, CustomerStreams, KeyStream

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
Logits = NDArray[np.float32]

FEWEST = 64  # bits of a pool: fewer prove nobody at usual bounds
MOST = 65_536  # bits of all pools of a model


@dataclass(frozen=True)
class Pool:
    """Query images that are asked together, and the two answers that are told apart at each.

    Attributes:
        number: From 1; all secrets of the pool are drawn under it.
        images: ``(m, channels, size, size)``.
        answers: Classes that mean zero and one, ``(m, 2)``.
    """

    number: int
    images: Pixels = field(repr=False)
    answers: Labels = field(repr=False)

    def __post_init__(self) -> None:
        if self.answers.shape != (len(self.images), 2) or self.images.ndim != 4:
            raise ValueError(f"{self.images.shape} images do not fit {self.answers.shape} answers")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def word_label(self) -> str:
        """Of the key stream that a customer's codeword for this pool is drawn from."""
        return f"queries/{self.number}/codeword"

    def digest(self) -> str:
        """Return the SHA-256 of number, images and answers, hexadecimal.

        Example:
            >>> pool = Pool(1, np.zeros((2, 1, 8, 8), np.uint8), np.array([[3, 5], [0, 1]]))
            >>> other = Pool(1, pool.images, np.array([[5, 3], [0, 1]]))
            >>> pool.digest() == other.digest()
            False
        """
        described = json.dumps([self.number, list(self.images.shape), self.answers.tolist()])
        total = hashlib.sha256(f"smdl-pool/1{described}".encode())
        total.update(self.images.tobytes())
        return total.hexdigest()

    def wanted(self, word: Bits) -> Labels:
        """Return the classes that a copy with this codeword answers with, ``(m,)``.

        Example:
            >>> pool = Pool(1, np.zeros((2, 1, 8, 8), np.uint8), np.array([[3, 5], [0, 1]]))
            >>> pool.wanted(np.array([1, 0], np.uint8)).tolist()
            [5, 0]
        """
        return np.asarray(self.answers[np.arange(len(word)), word])


@dataclass(frozen=True)
class Bank:
    """All query pools of one base model.

    Attributes:
        code: Of the codewords, one for each pool; its length is the number of images in a pool.
        pools: Disjoint: whoever is asked one pool sees nothing of the others.
    """

    code: Code
    pools: tuple[Pool, ...]

    def biases(self, key: CampaignKey, pool: Pool) -> Biases:
        """Return the probability of a one at each position of a pool's codewords, ``(m,)``."""
        return self.code.biases(key, f"queries/{pool.number}/biases")

    def word(self, key: CustomerStreams, biases: Biases, pool: Pool) -> Bits:
        """Return a customer's codeword in a pool; independent of all its other words, ``(m,)``."""
        return codes.codeword(key, biases, pool.word_label)


def make_bank(
    key: CampaignKey,
    code: Code,
    pools: int,
    shape: tuple[int, int, int],
    logits: Callable[[Pixels], Logits],
) -> Bank:
    """Draw the query pools of a base model.

    Args:
        key: Of the campaign.
        code: Of the codewords; one image per bit.
        pools: How many.
        shape: Of an image: channels, height, width.
        logits: The base model: images -> ``(n, classes)``, of two classes or more.
    """
    made = []
    for number in range(1, pools + 1):
        images = draw(key.stream(f"queries/{number}/images"), code.length, shape)
        top = np.argsort(-logits(images), axis=1, kind="stable")[:, :2].astype(np.int64)
        # Else a one would always be the second choice, and w0 all zeros: a word like any other,
        # but one that an unmarked model has.
        turned = key.stream(f"queries/{number}/order").uint16(code.length) % 2 == 1
        top[turned] = top[turned, ::-1]
        made.append(Pool(number, images, top))
    return Bank(code, tuple(made))


def draw(stream: KeyStream, count: int, shape: tuple[int, int, int]) -> Pixels:
    """Return query images from a key stream, ``(count, *shape)``.

    Example:
        >>> from smdl_flower.fingerprint.keys import OwnerKey
        >>> stream = OwnerKey(bytes(32)).campaign("00" * 32).stream("example")
        >>> images = draw(stream, 4, (3, 16, 16))
        >>> images.shape, images.dtype, len(np.unique(images)) > 100
        ((4, 3, 16, 16), dtype('uint8'), True)
    """
    style = _Style.of(stream)
    return np.stack([_image(stream, style, shape) for _ in range(count)])


@dataclass(frozen=True)
class _Style:
    """What all images of a pool have in common; lengths are shares of an image's side."""

    width: float  # of a stroke
    grain: float  # of the texture
    contrast: float  # of the texture
    ink: float  # how much strokes count
    ground: float  # how much the texture counts

    @classmethod
    def of(cls, stream: KeyStream) -> "_Style":
        low = np.array([0.055, 0.030, 2.0, 0.6, 0.5])
        high = np.array([0.095, 0.045, 3.0, 0.8, 0.7])
        return cls(*(low + (high - low) * _uniform(stream, 5)).tolist())


def _image(stream: KeyStream, style: _Style, shape: tuple[int, int, int]) -> Pixels:
    channels, size = shape[0], shape[1]
    strokes = _strokes(stream, style, size)
    colours = 0.4 + 0.6 * _uniform(stream, channels) if channels > 1 else np.ones(1)
    texture = np.stack([_texture(stream, style, size) for _ in range(channels)])
    mixed = style.ink * colours[:, None, None] * strokes + style.ground * texture
    return np.asarray(np.rint(255 * np.clip(mixed, 0.0, 1.0)).astype(np.uint8))


def _strokes(stream: KeyStream, style: _Style, size: int) -> NDArray[np.float64]:
    """Two to four bent lines with soft edges, values 0 to 1, ``(size, size)``."""
    grid = (np.indices((size, size)) + 0.5) / size
    nearest = np.full((size, size), np.inf)
    for _ in range(2 + int(3 * _uniform(stream, 1)[0])):
        bends = 2 + int(3 * _uniform(stream, 1)[0])
        corners = 0.14 + 0.72 * _uniform(stream, 2 * bends).reshape(bends, 2)
        widths = style.width * (0.7 + 0.6 * _uniform(stream, 1)[0])
        for start, stop in itertools.pairwise(corners):
            np.minimum(nearest, _distance(grid, start, stop) - widths / 2, out=nearest)
    return np.clip(0.5 - nearest * size, 0.0, 1.0)


def _distance(
    grid: NDArray[np.float64], start: NDArray[np.float64], stop: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far each point of the grid ``(2, h, w)`` is from a piece of a line."""
    along = stop - start
    offset = grid - start[:, None, None]
    length = float(along @ along) or 1.0
    share = np.clip(np.tensordot(along, offset, 1) / length, 0.0, 1.0)
    return np.asarray(np.hypot(*(offset - share * along[:, None, None])))


def _texture(stream: KeyStream, style: _Style, size: int) -> NDArray[np.float64]:
    """Noise of one grain size, pushed towards black and white, values 0 to 1, ``(size, size)``."""
    noise = _uniform(stream, size * size).reshape(size, size) - 0.5
    grain = max(style.grain * size, 0.5)
    band = gaussian_filter(noise, grain, mode="wrap") - gaussian_filter(
        noise, 2.5 * grain, mode="wrap"
    )
    spread = float(band.std()) or 1.0
    return np.asarray(1 / (1 + np.exp(-style.contrast * band / spread)))


def _uniform(stream: KeyStream, count: int) -> NDArray[np.float64]:
    return np.asarray(stream.uint32(count) / 2.0**32)
