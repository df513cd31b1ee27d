"""How images travel: as PNG files, or as a tensor of numbers on one of three scales.

A copy takes float32 in [-1, 1], ``pixel / 127.5 - 1``. Whoever serves it usually takes files and
converts them itself; servers of tensors leave that to whoever asks.
"""

import base64
import binascii
import io
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smdl_flower.errors import ConfigError, SuspectAnswersError

Pixels = NDArray[np.uint8]

_MODES = {1: "L", 3: "RGB"}
_MISTAKES = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class Scale(StrEnum):
    """Numbers that an 8-bit pixel becomes."""

    UINT8 = "uint8"
    """0 to 255, as they are."""
    UNIT = "unit"
    """0 to 1: pixel / 255."""
    SIGNED = "signed"
    """-1 to 1: pixel / 127.5 - 1, what copies compute with."""


def png(image: Pixels) -> bytes:
    """Return an image ``(channels, height, width)`` as a PNG file.

    Raises:
        ConfigError: It is neither grey nor RGB.

    Example:
        >>> picture = np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
        >>> bool((from_file(png(picture), (3, 4, 4)) == picture).all())
        True
    """
    if len(image) not in _MODES:
        raise ConfigError(
            f"images of {len(image)} channels are no PNG files; ask with --protocol kserve"
        )
    file = io.BytesIO()
    values = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(values)).save(file, "PNG")
    return file.getvalue()


def from_file(content: bytes, shape: tuple[int, int, int]) -> Pixels:
    """Return the pixels of a PNG or JPEG file that may be hostile, ``shape``.

    Raises:
        SuspectAnswersError: It is none, or of another size.
        ConfigError: Images of that shape are no such files.
    """
    channels, height, width = shape
    if channels not in _MODES:
        raise ConfigError(f"images of {channels} channels are no PNG files")
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            if image.size != (width, height):  # before anything is unpacked
                raise SuspectAnswersError(
                    f"an image of {image.size} pixels; expected {(width, height)}"
                )
            values = np.asarray(image.convert(_MODES[channels]), np.uint8)
    except _MISTAKES as error:
        raise SuspectAnswersError(f"no PNG or JPEG image ({type(error).__name__})") from None
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def to_text(image: Pixels) -> str:
    """Return an image as base64 of a PNG file."""
    return base64.b64encode(png(image)).decode()


def from_text(text: Any, shape: tuple[int, int, int]) -> Pixels:
    """Return the pixels of base64 of a file that may be hostile, ``shape``.

    Raises:
        SuspectAnswersError: It is no base64, or no such image.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise SuspectAnswersError("an image is no base64 text") from None
    return from_file(content, shape)


def scaled(images: Pixels, scale: Scale) -> NDArray[Any]:
    """Return pixels as numbers on a scale, uint8 or float32, in the same shape.

    Example:
        >>> [scaled(np.array([0, 255], np.uint8), scale).tolist() for scale in Scale]
        [[0, 255], [0.0, 1.0], [-1.0, 1.0]]
    """
    if scale is Scale.UINT8:
        return images
    if scale is Scale.UNIT:
        return (images / 255).astype(np.float32)
    return (images / 127.5 - 1).astype(np.float32)
