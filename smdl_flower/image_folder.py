"""Image files in folders, one sub-folder per class: listed, and read one at a time.

A file is what somebody put there. Only common image formats are decoded (Pillow would also hand a
PostScript file to another program), and none that unpacks into far more than it is.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from smdl_flower.errors import DataError

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LARGEST_SIDE = 1024  # as image-size
_UNREADABLE = (  # Pillow's errors
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


@dataclass(frozen=True)
class ImageFormat:
    """What every image is converted to.

    Attributes:
        channels: 1 (grey) or 3 (colour).
        size: Pixels per side.
    """

    channels: int
    size: int

    @property
    def mode(self) -> str:
        """Pillow's name of it."""
        return "L" if self.channels == 1 else "RGB"


@dataclass(frozen=True)
class Folder:
    """The images of a folder with one sub-folder per class, none of them read yet.

    Attributes:
        paths: One per image.
        labels: ``(n,)``, one per image.
        classes: Name of each label.
    """

    paths: list[Path]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def read(self, indices: NDArray[np.int64], as_format: ImageFormat) -> Tensor:
        """Return images, uint8 ``(len(indices), channels, size, size)``.

        Raises:
            DataError: One cannot be read.
        """
        return torch.stack([read_image(self.paths[i], as_format) for i in indices])


def list_folder(root: Path) -> Folder:
    """Return the images of a folder in which each class has some.

    Raises:
        DataError: It is no such folder.
    """
    from torchvision.datasets import ImageFolder  # noqa: PLC0415

    try:
        listing = ImageFolder(str(root))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{root}: not a folder of images with one sub-folder per class ({error})"
        ) from None
    paths = [Path(path) for path, _ in listing.samples]
    labels = np.asarray([label for _, label in listing.samples], dtype=np.int64)
    return Folder(paths, labels, tuple(listing.classes))


def format_of(first: Path, image_size: int) -> ImageFormat:
    """Return grey or colour, and the size, as an image has them.

    Args:
        first: The image.
        image_size: Size to use instead of the image's shorter side, unless 0.

    Raises:
        DataError: It cannot be read, or is too large without ``image_size``.
    """
    try:
        with _opened(first) as image:
            mode, size = image.mode, image_size or min(image.size)
    except _UNREADABLE as error:
        raise DataError(f"{first}: not a readable image ({error})") from None
    if size > LARGEST_SIDE:
        raise DataError(
            f"{first}: {size} pixels per side; set image-size to {LARGEST_SIDE} or less"
        )
    grey = mode in ("1", "L", "LA") or mode.startswith("I")
    return ImageFormat(1 if grey else 3, size)


def read_image(path: Path, as_format: ImageFormat) -> Tensor:
    """Return one image, uint8 ``(channels, size, size)``.

    Raises:
        DataError: It cannot be read.
    """
    side = (as_format.size, as_format.size)
    try:
        with _opened(path) as image:
            converted = _eight_bit(image).convert(as_format.mode)
            array = np.asarray(converted.resize(side, Image.Resampling.BILINEAR), dtype=np.uint8)
    except _UNREADABLE as error:
        raise DataError(f"{path}: not a readable image ({error})") from None
    array = array[None] if as_format.channels == 1 else array.transpose(2, 0, 1)
    return torch.from_numpy(array.copy())


def _opened(path: Path) -> Image.Image:
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError("No such file")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path, formats=FORMATS)


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image with at most 8 bits per value; Pillow's own conversion of 16 bits cuts at 255."""
    if image.mode == "F":
        raise ValueError("floating-point values have no known range; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image.convert("I")).clip(0, 65_535) // 257
    return Image.fromarray(values.astype(np.uint8))
