"""What an interface may put between questions and a copy, without touching the copy.

On images: compression, scaling, blur, noise, shift, fewer grey levels; all of them kept mild enough
that a classifier stays of use. Answers are rounded or noised by :mod:`serving`.
"""

import io
from collections.abc import Callable, Sequence
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from smdl_flower.errors import ConfigError
from smdl_flower.interface.pixels import Pixels


class Obstacle(StrEnum):
    """A change of the images before the model sees them."""

    JPEG_75 = "jpeg-75"
    JPEG_30 = "jpeg-30"
    RESIZE = "resize"
    BLUR = "blur"
    NOISE = "noise"
    SHIFT = "shift"
    DEPTH = "depth"


def through(obstacles: Sequence[Obstacle], images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return images ``(n, channels, height, width)`` in [-1, 1] as they come out.

    Raises:
        ConfigError: Images of so many channels cannot be compressed.

    Example:
        >>> images = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)
        >>> len(np.unique(through([Obstacle.DEPTH], images)))
        16
    """
    if not obstacles:
        return images
    pixels = _pixels(images)
    for obstacle in obstacles:
        pixels = _CHANGES[obstacle](pixels)
    return (pixels / 127.5 - 1).astype(np.float32)


def _pixels(images: NDArray[np.float32]) -> Pixels:
    return np.rint((images.clip(-1, 1) + 1) * 127.5).astype(np.uint8)


def _jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    def change(pixels: Pixels) -> Pixels:
        if pixels.shape[1] not in (1, 3):
            raise ConfigError(f"images of {pixels.shape[1]} channels are no JPEG files")
        return np.stack([_packed(image, quality) for image in pixels])

    return change


def _packed(image: Pixels, quality: int) -> Pixels:
    file = io.BytesIO()
    values = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(values)).save(file, "JPEG", quality=quality)
    found = np.asarray(Image.open(file))
    return found[None] if len(image) == 1 else found.transpose(2, 0, 1)


def _resize(pixels: Pixels) -> Pixels:
    """To three quarters of the side and back."""
    size = pixels.shape[2:]
    small = (max(1, 3 * size[0] // 4), max(1, 3 * size[1] // 4))
    values = torch.from_numpy(pixels.astype(np.float32))
    for target in (small, size):
        values = torch.nn.functional.interpolate(
            values, target, mode="bilinear", antialias=True, align_corners=False
        )
    return np.asarray(values.round().clamp(0, 255).byte().numpy())


def _blur(pixels: Pixels) -> Pixels:
    """A Gaussian of 0.7 pixels."""
    blurred = gaussian_filter(pixels.astype(np.float32), (0, 0, 0.7, 0.7), mode="nearest")
    return np.asarray(np.rint(blurred).astype(np.uint8))


def _noise(pixels: Pixels) -> Pixels:
    """Ten grey levels, new each time."""
    noised = pixels + np.random.default_rng().normal(0, 10, pixels.shape)
    return np.asarray(np.rint(noised).clip(0, 255).astype(np.uint8))


def _shift(pixels: Pixels) -> Pixels:
    """One pixel to the right; the left column stays."""
    return np.concatenate([pixels[..., :1], pixels[..., :-1]], axis=3)


def _depth(pixels: Pixels) -> Pixels:
    """Sixteen grey levels."""
    return np.asarray((pixels >> 4) * np.uint8(17), np.uint8)


_CHANGES: dict[Obstacle, Callable[[Pixels], Pixels]] = {
    Obstacle.JPEG_75: _jpeg(75),
    Obstacle.JPEG_30: _jpeg(30),
    Obstacle.RESIZE: _resize,
    Obstacle.BLUR: _blur,
    Obstacle.NOISE: _noise,
    Obstacle.SHIFT: _shift,
    Obstacle.DEPTH: _depth,
}
