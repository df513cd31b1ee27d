"""Alter one copy's weights without any data."""

import numpy as np

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
