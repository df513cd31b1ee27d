"""Alter one copy's weights without any data.

Biases and scales are left as they are: they are few, and a network is sensitive to them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smdl_flower.attacks.entry import Attack, NoOptions, on_one_copy
from smdl_flower.config import Fraction, Section, Seed
from smdl_flower.weights import Weights

_LARGEST_HALF = float(np.finfo(np.float16).max)


class PruneOptions(Section):
    """Settings of ``prune`` and ``prune-global``."""

    fraction: float = Field(0.5, ge=0.0, lt=1.0, description="share of the weights set to zero")


class NoiseOptions(Section):
    """Settings of ``noise`` and ``shift``."""

    level: float = Field(0.1, ge=0.0, le=10.0, description="in standard deviations of each tensor")
    seed: Seed = 1


class QuantizeOptions(Section):
    """Settings of ``quantize`` and ``quantize-channels``."""

    bits: int = Field(8, ge=1, le=16, description="per weight")


class LowRankOptions(Section):
    """Settings of ``low-rank``."""

    rank: Fraction = Field(0.5, description="share of each matrix' rank that is kept")


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


def prune_globally(copy: Weights, fraction: float) -> Weights:
    """Return the copy with the smallest of all such weights zero, whichever tensor they are in."""
    names = sorted(name for name in matrices(copy) if copy[name].size)
    flat = np.concatenate([copy[name].ravel() for name in names] or [np.zeros(0, np.float32)])
    count = int(flat.size * fraction)
    if count:
        flat[np.argpartition(np.abs(flat), count - 1)[:count]] = 0.0
    pieces = np.split(flat, np.cumsum([copy[name].size for name in names])[:-1])
    pruned = {n: p.reshape(copy[n].shape) for n, p in zip(names, pieces, strict=False)}
    return {**copy, **pruned}


def quantize(copy: Weights, bits: int) -> Weights:
    """Return the copy with each such tensor rounded to ``2^bits`` evenly spaced levels."""
    return {**copy, **{name: _rounded(copy[name], bits) for name in matrices(copy)}}


def quantize_channels(copy: Weights, bits: int) -> Weights:
    """Return the copy with each output channel rounded to levels over its own range."""
    quantized = dict(copy)
    for name in matrices(copy):
        rows = [_rounded(row, bits) for row in copy[name]]
        quantized[name] = np.stack(rows) if rows else copy[name]
    return quantized


def _rounded(array: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    if not array.size:
        return array
    wide = array.astype(np.float64)  # the range of a float32 tensor may exceed float32
    low, high = wide.min(), wide.max()
    step = (high - low) / (2**bits - 1) or 1.0
    return np.asarray(np.rint((wide - low) / step) * step + low, dtype=np.float32)


def to_float16(copy: Weights) -> Weights:
    """Return the copy as half precision stores it."""
    return {
        name: np.clip(a, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16).astype(np.float32)
        for name, a in copy.items()
    }


def to_bfloat16(copy: Weights) -> Weights:
    """Return the copy as bfloat16 stores it: 8 bits of precision, rounded to even."""
    return {name: _bfloat16(array) for name, array in copy.items()}


def _bfloat16(array: NDArray[np.float32]) -> NDArray[np.float32]:
    bits = np.asarray(array, dtype=np.float32, order="C").view(np.uint32)
    kept = (bits + ((bits >> 16) & 1) + 0x7FFF) & np.uint32(0xFFFF0000)
    cut = bits & np.uint32(0xFFFF0000)  # what would round to infinity
    rounded = kept.view(np.float32)
    return np.where(np.isfinite(rounded), rounded, cut.view(np.float32))


def add_noise(copy: Weights, level: float, seed: int) -> Weights:
    """Return the copy with noise of ``level`` standard deviations added to each such tensor."""
    rng = np.random.default_rng(seed)
    noisy = dict(copy)
    for name in matrices(copy):
        array = copy[name]
        noise = rng.standard_normal(array.shape, dtype=np.float32)
        noisy[name] = array + np.float32(level) * array.std() * noise
    return noisy


def shift(copy: Weights, level: float, seed: int) -> Weights:
    """Return the copy with each filter moved as a whole (SoK 2021, weight shifting)."""
    rng = np.random.default_rng(seed)
    shifted = dict(copy)
    for name in matrices(copy):
        array = copy[name]
        offsets = rng.standard_normal((len(array),) + (1,) * (array.ndim - 1), dtype=np.float32)
        shifted[name] = array + np.float32(level) * array.std() * offsets
    return shifted


def truncate_rank(copy: Weights, rank: float) -> Weights:
    """Return the copy with each such tensor, as rows of output channels, of lower rank.

    At least one singular direction is kept.
    """
    return {**copy, **{name: _of_lower_rank(copy[name], rank) for name in matrices(copy)}}


def _of_lower_rank(array: NDArray[np.float32], rank: float) -> NDArray[np.float32]:
    if not array.size:
        return array
    left, right = rank_factors(array, rank)
    return np.asarray((left @ right).reshape(array.shape), dtype=np.float32)


def rank_factors(
    array: NDArray[np.float32], rank: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two matrices of equal size whose product is the best approximation of lower rank.

    From the smaller Gram matrix: ten times faster than the singular value decomposition, and at
    full rank as exact, since the product is a projection of the tensor's own values.

    Args:
        array: At least one value; the first dimension counts rows, the others together columns.
        rank: Share of the full rank that is kept; at least one direction is.
    """
    matrix = array.reshape(len(array), -1).astype(np.float64)
    if len(matrix) > matrix.shape[1]:
        left, right = rank_factors(np.ascontiguousarray(array.reshape(len(array), -1).T), rank)
        return right.T, left.T
    squares, vectors = np.linalg.eigh(matrix @ matrix.T)  # ascending
    kept = max(1, round(len(squares) * rank))
    floor = 1e-12 * float(squares[-1]) or 1.0  # a matrix of lower rank divides by next to nothing
    roots = np.maximum(squares[-kept:], floor) ** 0.25
    return vectors[:, -kept:] * roots, (vectors[:, -kept:].T @ matrix) / roots[:, None]


def matrices(copy: Weights) -> list[str]:
    """Return the names of the tensors of two or more dimensions, in alphabetical order."""
    return sorted(name for name, array in copy.items() if array.ndim >= 2)


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
        "prune-global",
        7,
        "set the smallest of all weights to zero",
        PruneOptions,
        lambda copy, o: prune_globally(copy, o.fraction),
    ),
    _entry(
        "quantize",
        10,
        "round each tensor to few levels",
        QuantizeOptions,
        lambda copy, o: quantize(copy, o.bits),
    ),
    _entry(
        "quantize-channels",
        10,
        "round each output channel to few levels",
        QuantizeOptions,
        lambda copy, o: quantize_channels(copy, o.bits),
    ),
    _entry(
        "float16",
        10,
        "round to half precision",
        NoOptions,
        lambda copy, _: to_float16(copy),
    ),
    _entry(
        "bfloat16",
        10,
        "round to bfloat16",
        NoOptions,
        lambda copy, _: to_bfloat16(copy),
    ),
    _entry(
        "noise",
        11,
        "add Gaussian noise to each tensor",
        NoiseOptions,
        lambda copy, o: add_noise(copy, o.level, o.seed),
    ),
    _entry(
        "shift",
        12,
        "move each filter by one random amount",
        NoiseOptions,
        lambda copy, o: shift(copy, o.level, o.seed),
    ),
    _entry(
        "low-rank",
        18,
        "cut small singular values of each tensor",
        LowRankOptions,
        lambda copy, o: truncate_rank(copy, o.rank),
    ),
)
