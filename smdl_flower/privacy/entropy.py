"""Randomness for noise and sampling: the operating system's, or a seed's for simulations.

A torch generator keeps 32 bits of its seed (``manual_seed(5)`` equals ``manual_seed(5 + 2**32)``),
so whoever sees a few noised values can search for the seed and remove the noise. Each uniform here
is 52 fresh bits, put in the middle of its cell, and becomes normal by the inverse distribution
function. A normal is the sum of four such, halved, as in Opacus' secure mode: the rounding of one
draw would betray which values are possible (Holohan & Braghin, 2107.10138, section 5.1).
"""

import os
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

RngKind = Literal["os", "seeded"]
_DRAWS = 4


class Entropy(Protocol):
    """A source of uniform numbers, and what kind of claim it can carry."""

    kind: RngKind

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return numbers strictly between 0 and 1, ``(count,)``."""


class SystemEntropy:
    """The operating system's generator: no seed, nothing to repeat."""

    kind: RngKind = "os"

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return numbers strictly between 0 and 1, ``(count,)``."""
        return _centred(np.frombuffer(os.urandom(8 * count), "<u8"))


class SeededEntropy:
    """Repeatable numbers, for simulations and tests: whoever knows the seed sees through the noise.

    Example:
        >>> bool((SeededEntropy(1).uniforms(4) == SeededEntropy(1).uniforms(4)).all())
        True
    """

    kind: RngKind = "seeded"

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def uniforms(self, count: int) -> NDArray[np.float64]:
        """Return numbers strictly between 0 and 1, ``(count,)``."""
        return _centred(self._generator.integers(0, 2**64, count, dtype=np.uint64))


def normals(entropy: Entropy, shape: torch.Size) -> Tensor:
    """Return independent standard normal values as float32.

    Example:
        >>> normals(SystemEntropy(), torch.Size([2, 3])).shape
        torch.Size([2, 3])
    """
    count = shape.numel()
    draws = ndtri(entropy.uniforms(_DRAWS * count)).reshape(_DRAWS, count)
    return torch.from_numpy((draws.sum(axis=0) / 2).reshape(shape)).float()


def poisson_batch(entropy: Entropy, count: int, sample_rate: float) -> Tensor:
    """Return the indices of a batch in which each of ``count`` examples is, or not, by itself.

    That is the sampling that the accountant assumes; a shuffled batch of fixed size is not.
    """
    if sample_rate == 1.0:
        return torch.arange(count)
    return torch.from_numpy(np.flatnonzero(entropy.uniforms(count) < sample_rate))


def _centred(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
