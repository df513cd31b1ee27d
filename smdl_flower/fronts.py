"""A front that needs no private data: wavelet scattering, a public projection, a linear head.

Noise in differentially private training grows with the number of trained weights; behind a good
fixed representation few are needed (Tramer & Boneh, 2011.11660). The representation is a scattering
transform of two orders (Bruna & Mallat, 1203.1513) with small spatial kernels, then the principal
components of public images: scikit-learn's digits for grey, its two photographs for colour. All of
it is ordinary parameters in the model's state_dict, so that a copy is complete and bears its mark.
"""

import functools
import math
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

ORIENTATIONS = 8
COMPONENTS = 150
SAMPLES = 900  # public images that the projection is fitted to: seconds in double precision
STRIDE = 4
_CHUNK = 5  # images at once: more do not fit into a core's cache in double precision
_FLOOR = 1e-12  # keeps the modulus differentiable at zero


class Scattering(nn.Module):
    """Averages of an image's wavelet moduli: ``(n, c, h, w)`` -> ``(n, 81 c, h / 4, w / 4)``.

    Each channel gives its average, 16 moduli of one wavelet, and 64 of two in a row; groups of
    three are normalised per image, by nothing that was learned.

    Example:
        >>> Scattering()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 81, 7, 7])
    """

    def __init__(self) -> None:
        super().__init__()
        self.fine = _parameter(_wavelets(size=7, sigma=0.8, frequency=3 * math.pi / 4))
        self.coarse = _parameter(_wavelets(size=11, sigma=1.6, frequency=3 * math.pi / 8))
        self.average = _parameter(_window(size=9, sigma=1.6)[None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised averages of images in [-1, 1]."""
        each = images.flatten(0, 1)[:, None] * 0.5 + 0.5
        fine, coarse = _modulus(each, self.fine), _modulus(each, self.coarse)
        second = [self._average(_modulus(fine[:, i : i + 1], self.coarse)) for i in range(8)]
        maps = [self._average(each), self._average(fine), self._average(coarse), *second]
        together = torch.cat(maps, 1)
        together = together.reshape(len(images), -1, *together.shape[2:])
        return nn.functional.group_norm(together, together.shape[1] // 3)

    def _average(self, maps: Tensor) -> Tensor:
        flat = _padded(maps.flatten(0, 1)[:, None], self.average)
        averaged = nn.functional.conv2d(flat, self.average, stride=STRIDE)
        return averaged.reshape(*maps.shape[:2], *averaged.shape[2:])


class PublicFront(nn.Module):
    """Scattering and projection: images -> vectors of norm one, ``(n, components)``."""

    def __init__(self, channels: int, image_size: int, components: int) -> None:
        super().__init__()
        self.scattering = Scattering()
        side = math.ceil(image_size / STRIDE)
        self.projection = nn.Linear(81 * channels * side * side, components)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the images look like to the head."""
        return nn.functional.normalize(self.projection(self.scattering(images).flatten(1)), dim=1)


class FrontedClassifier(nn.Module):
    """A public front and a linear head that starts at zero.

    Nothing is frozen here: participants freeze the front (:mod:`smdl_flower.privacy`), a thief
    does not.

    Attributes:
        public_front: Prefix of the front's names, for the privacy partition.
    """

    public_front = "front."

    def __init__(self, front: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.front = front
        self.head = nn.Linear(features, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, classes)`` for images ``(n, channels, height, width)``."""
        return cast(Tensor, self.head(self.front(images)))


def scatter_linear(channels: int, classes: int, image_size: int) -> FrontedClassifier:
    """Return the untrained model ``scatter-linear``; its projection is not fitted yet."""
    front = PublicFront(channels, image_size, min(COMPONENTS, 81 * channels * 4))
    return FrontedClassifier(front, front.projection.out_features, classes)


def fit_public(model: nn.Module, channels: int, image_size: int) -> None:
    """Give a :class:`PublicFront` in a model its projection; other models are left as they are."""
    front = getattr(model, "front", None)
    if isinstance(front, PublicFront):
        weight, bias = _projection(channels, image_size, front.projection.out_features)
        with torch.no_grad():
            front.projection.weight.copy_(weight)
            front.projection.bias.copy_(bias)


def public_images(channels: int, image_size: int) -> Tensor:
    """Return public images in [-1, 1], the same each time, ``(n, channels, size, size)``."""
    return _digits(image_size) if channels == 1 else _photographs(channels, image_size)


@functools.lru_cache(maxsize=4)
def _projection(channels: int, image_size: int, components: int) -> tuple[Tensor, Tensor]:
    """Principal components, ``(k, d)``, and bias, ``(k,)``, in double precision until the end."""
    scattering = Scattering().double()
    with torch.no_grad():
        parts = public_images(channels, image_size).double().split(_CHUNK)
        features = torch.cat([scattering(part).flatten(1) for part in parts])
    mean = features.mean(0)
    centred = features - mean
    # The small Gram matrix has the same components as the covariance, faster.
    _, vectors = torch.linalg.eigh(centred @ centred.T)
    basis = vectors[:, -components:].flip(1).T @ centred
    basis /= basis.norm(dim=1, keepdim=True)
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    basis *= largest.sign()  # an eigenvector's sign is the library's whim
    return basis.float(), (-basis @ mean).float()


def _digits(image_size: int) -> Tensor:
    """Scikit-learn's 8x8 digits in MNIST's proportions, each turned and shifted a little."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - seconds, for this front only

    small = torch.from_numpy(load_digits().images[:SAMPLES]).float()[:, None] / 16
    inner = max(6, round(image_size * 5 / 7))
    resized = nn.functional.interpolate(small, size=(inner, inner), mode="bicubic").clamp(0, 1)
    margin = image_size - inner
    padding = (margin // 2, margin - margin // 2) * 2
    moved = _moved(nn.functional.pad(resized, padding))
    return moved * 2 - 1


def _moved(images: Tensor) -> Tensor:
    """Each image turned, sheared and shifted in one of five ways, in turn."""
    turns = [(0.0, 0.0, 0.0), (-0.2, 1, 0), (0.2, -1, 0), (0.1, 0, 1.5), (-0.1, 0, -1.5)]
    kinds = torch.tensor(
        [
            [
                [math.cos(a), -math.sin(a) - 0.75 * min(a, 0), x / 14],
                [math.sin(a), math.cos(a), y / 14],
            ]
            for a, x, y in turns
        ]
    )
    chosen = kinds[torch.arange(len(images)) % len(kinds)]
    grid = nn.functional.affine_grid(chosen, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


def _photographs(channels: int, image_size: int) -> Tensor:
    """Crops of scikit-learn's two sample photographs, on a grid; grey ones for other than RGB."""
    from sklearn.datasets import load_sample_images  # noqa: PLC0415 - seconds, for this front only

    photographs = torch.from_numpy(np.stack(load_sample_images().images)).float() / 127.5 - 1
    crop = max(32, image_size)
    windows = photographs.permute(0, 3, 1, 2).unfold(2, crop, 13).unfold(3, crop, 13)
    crops = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, crop, crop)
    crops = crops[torch.linspace(0, len(crops) - 1, min(SAMPLES, len(crops))).long()]
    if channels != 3:
        crops = crops.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    return nn.functional.interpolate(crops, size=(image_size, image_size), mode="area")


def _modulus(images: Tensor, wavelets: Tensor) -> Tensor:
    """Moduli of complex wavelets, ``(n, 1, h, w)`` -> ``(n, 8, h, w)``."""
    filtered = nn.functional.conv2d(_padded(images, wavelets), wavelets)
    return (filtered.reshape(len(images), 2, -1, *images.shape[2:]).square().sum(1) + _FLOOR).sqrt()


def _padded(images: Tensor, kernel: Tensor) -> Tensor:
    return nn.functional.pad(images, (kernel.shape[-1] // 2,) * 4, mode="reflect")


def _wavelets(size: int, sigma: float, frequency: float) -> NDArray[np.float64]:
    """Morlet wavelets in 8 directions, real parts then imaginary parts, ``(16, 1, size, size)``."""
    rows, columns = _grid(size)
    waves = []
    for direction in np.arange(ORIENTATIONS) * np.pi / ORIENTATIONS:
        along = columns * np.cos(direction) + rows * np.sin(direction)
        across = rows * np.cos(direction) - columns * np.sin(direction)
        envelope = np.exp(-(along**2 + (across / 2) ** 2) / (2 * sigma**2))
        envelope /= envelope.sum()
        wave = envelope * np.exp(1j * frequency * along)
        waves.append(wave - wave.sum() * envelope)  # no answer to a flat image
    bank = np.stack(waves)
    return np.concatenate([bank.real, bank.imag])[:, None]


def _window(size: int, sigma: float) -> NDArray[np.float64]:
    rows, columns = _grid(size)
    window = np.exp(-(rows**2 + columns**2) / (2 * sigma**2))
    return np.asarray(window / window.sum())


def _grid(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, columns = np.mgrid[-(size // 2) : size // 2 + 1, -(size // 2) : size // 2 + 1]
    return rows.astype(float), columns.astype(float)


def _parameter(values: NDArray[np.float64]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(values).float())
