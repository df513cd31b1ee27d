"""Alter one copy's weights without any data."""

from collections.abc import Callable

import numpy as np
from pydantic import Field

from smdl_flower.attacks.entry import Attack, on_one_copy
from smdl_flower.config import Section, Seed
from smdl_flower.weights import Weights


def prune(copy: Weights, fraction: float) -> Weights:
    """Return the copy with the smallest weights of each tensor of two or more dimensions zero."""
    pruned = dict(copy)
    for name, array in copy.items():
        count = int(array.size * fraction)
        if array.ndim >= 2 and count:
            flat = array.ravel().copy()
            flat[np.argpartition(np.abs(flat), count - 1)[:count]] = 0.0
            pruned[name] = flat.reshape(array.shape)
    return pruned


def quantize(copy: Weights, bits: int) -> Weights:
    """Return the copy with each such tensor rounded to ``2^bits`` evenly spaced levels."""
    quantized = dict(copy)
    for name, array in copy.items():
        if array.ndim >= 2 and array.size:
            wide = array.astype(np.float64)  # the range of a float32 tensor may exceed float32
            low, high = wide.min(), wide.max()
            step = (high - low) / (2**bits - 1) or 1.0
            rounded = np.rint((wide - low) / step) * step + low
            quantized[name] = rounded.astype(np.float32)
    return quantized


def add_noise(copy: Weights, level: float, seed: int) -> Weights:
    """Return the copy with noise of ``level`` standard deviations added to each such tensor."""
    rng = np.random.default_rng(seed)
    noisy = dict(copy)
    for name in sorted(copy):
        array = copy[name]
        if array.ndim >= 2:
            noise = rng.standard_normal(array.shape, dtype=np.float32)
            noisy[name] = array + np.float32(level) * array.std() * noise
    return noisy


class PruneOptions(Section):
    """Settings of ``prune``."""

    fraction: float = Field(0.5, ge=0.0, lt=1.0, description="share of each tensor set to zero")


class NoiseOptions(Section):
    """Settings of ``noise``."""

    level: float = Field(0.1, ge=0.0, le=10.0, description="in standard deviations of each tensor")
    seed: Seed = 1


class QuantizeOptions(Section):
    """Settings of ``quantize``."""

    bits: int = Field(8, ge=1, le=16, description="per weight")


def _entry(
    name: str, number: int, summary: str, options: type[Section], alter: Callable[..., Weights]
) -> Attack:
    return Attack(name, number, "A", summary, "nothing", 1, options, on_one_copy(alter))


ENTRIES = (
    _entry(
        "prune",
        7,
        "set the smallest weights of each tensor to zero",
        PruneOptions,
        lambda copy, o: prune(copy, o.fraction),
    ),
    _entry(
        "quantize",
        10,
        "round each tensor to few levels",
        QuantizeOptions,
        lambda copy, o: quantize(copy, o.bits),
    ),
    _entry(
        "noise",
        11,
        "add Gaussian noise to each tensor",
        NoiseOptions,
        lambda copy, o: add_noise(copy, o.level, o.seed),
    ),
)
