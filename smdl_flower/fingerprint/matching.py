"""Which unit of a suspect is which unit of the base model, and how much it was scaled.

Units are matched by an assignment problem per channel space (Hungarian method, as in Git Re-Basin,
Ainsworth et al., 2209.04836): first from input to output on the incoming weights alone, then
alternating over all spaces, with incoming and outgoing weights, until nothing changes. The gain of
a pair is the profile likelihood ratio -L/2 log(1 - cos^2) of "a scaled copy plus noise" against
"unrelated", so evidence from tensors of any size adds up and no positive rescaling matters.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from smdl_flower.errors import NotComparableError
from smdl_flower.fingerprint.wiring import Side, Wiring
from smdl_flower.weights import Weights

Array = NDArray[np.float64]  # squares of any float32 fit
Picks = NDArray[np.int64]
Plates = dict[str, Array]

ROUNDS = 8
_LARGEST_COSINE = 1 - 1e-6
_IDENTITY_BONUS = 1e-6  # units without any weights keep their place
_SCALING_STEPS = 6
_UNPRUNED = 0.98  # share of non-zero weights from which a tensor counts as not pruned
_TINY = 1e-150
_PRIOR = 40  # weights that the whole tensor counts for in a row's variance
_STEP_LIMITS = (0.2, 5.0)


@dataclass(frozen=True)
class Gains:
    """Positive scales of a tensor's rows ``(n,)`` and columns ``(m,)``, relative to w0."""

    rows: Array
    columns: Array

    def remove(self, plate: Array) -> Array:
        """Return a plate ``(n, m, k)`` without the gains."""
        return np.asarray(plate / (self.rows[:, None, None] * self.columns[None, :, None]))


def plates(wiring: Wiring, weights: Weights, sizes: dict[int, int]) -> Plates:
    """Return tensors as ``(units made, units read, weights per pair)``.

    Args:
        wiring: Of the model.
        weights: Its tensors, as far as they are there.
        sizes: Units of each space in these weights.
    """
    result = {}
    for name in dict.fromkeys(s.tensor for s in wiring.sides):
        if name in weights:
            space = wiring.space_of(name, 1)
            reads = 1 if space is None else sizes[space]
            result[name] = (
                weights[name].reshape(weights[name].shape[0], reads, -1).astype(np.float64)
            )
    return result


class Matching:
    """A search for the suspect's counterpart of each of the base model's units.

    Attributes:
        picks: For each space, the suspect's unit for each of the base model's, -1 for none.
    """

    def __init__(
        self, wiring: Wiring, base: Plates, suspect: Plates, sizes: dict[int, int]
    ) -> None:
        self._wiring, self._base, self._suspect, self._sizes = wiring, base, suspect, sizes
        self._scales: dict[int, Array] = {}  # of activations, found on the way from the input
        self.picks: dict[int, Picks] = {}

    def run(self) -> None:
        """Find all picks."""
        for space in self._wiring.sizes:
            self._first_guess(space)
        for _ in range(ROUNDS):
            gains = {
                name: fit_gains(self._base[name], self.undone(name))
                for name in self._suspect
                if self._base[name].size > self._base[name].shape[0]
            }
            changes = [self._refine(space, gains) for space in self._free()]
            if not any(changes):
                return

    def undone(self, name: str) -> Array:
        """Return a suspect's plate in the base model's order; units without counterpart are 0."""
        plate = self._suspect[name]
        for axis in (0, 1):
            space = self._wiring.space_of(name, axis)
            if space is not None:
                plate = _take(plate, self.picks[space], axis)
        return plate

    def scale_of(self, scale: int, size: int) -> Array:
        """Return the scale of activations, as far as it is known from the input side."""
        return self._scales.get(scale, np.ones(size))

    def _free(self) -> list[int]:
        return [s for s in self._wiring.sizes if s not in self._wiring.pinned]

    def _first_guess(self, space: int) -> None:
        size, count = self._wiring.sizes[space], self._sizes[space]
        if space in self._wiring.pinned:
            if size != count:
                raise NotComparableError(f"the suspect reads {count} input channels, not {size}")
            self.picks[space] = np.arange(size)
            return
        makers = [s for s in self._wiring.of_space(space) if s.axis == 0 and self._ready(s)]
        gain = np.zeros((size, count))
        for side in makers:
            base, suspect = self._incoming(side.tensor)
            gain += likelihood_ratio(base.reshape(size, -1), suspect.reshape(count, -1))
        self.picks[space] = assign(gain)
        for side in self._wiring.of_space(space):
            if side.makes and side.tensor in self._suspect:
                self._note_scale(side, space)

    def _ready(self, side: Side) -> bool:
        reads = self._wiring.space_of(side.tensor, 1)
        return (
            side.tensor in self._suspect
            and self._base[side.tensor][0].size > 1
            and (reads is None or reads in self.picks)
        )

    def _incoming(self, name: str) -> tuple[Array, Array]:
        """Both plates with the columns in the base model's order and scale."""
        base, suspect = self._base[name], self._suspect[name]
        reads = self._wiring.space_of(name, 1)
        if reads is None:
            return base, suspect
        picks = self.picks[reads]
        scale = next(s.scale for s in self._wiring.sides if (s.tensor, s.axis) == (name, 1))
        columns = self.scale_of(scale, len(picks))[None, :, None]
        return base * (picks >= 0)[None, :, None], _take(suspect, picks, 1) * columns

    def _note_scale(self, side: Side, space: int) -> None:
        reads = self._wiring.space_of(side.tensor, 1)
        if side.scale in self._scales or (reads is not None and reads not in self.picks):
            return
        parts = [
            self._incoming(s.tensor)
            for s in self._wiring.of_space(space)
            if (s.scale, s.axis) == (side.scale, 0) and s.tensor in self._suspect and self._known(s)
        ]
        base = np.concatenate([b.reshape(len(b), -1) for b, _ in parts], axis=1)
        suspect = np.concatenate([s.reshape(len(s), -1) for _, s in parts], axis=1)
        self._scales[side.scale] = norm_ratio(base, _take(suspect, self.picks[space], 0))

    def _known(self, side: Side) -> bool:
        reads = self._wiring.space_of(side.tensor, 1)
        return reads is None or reads in self.picks

    def _refine(self, space: int, gains: dict[str, Gains]) -> bool:
        size, count = self._wiring.sizes[space], self._sizes[space]
        gain = np.zeros((size, count))
        for side in self._wiring.of_space(space):
            if side.tensor in gains:
                base, suspect = self._seen_from(side, gains[side.tensor])
                gain += likelihood_ratio(base, suspect)
        picks = assign(gain)
        changed = not np.array_equal(picks, self.picks[space])
        self.picks[space] = picks
        return changed

    def _seen_from(self, side: Side, gains: Gains) -> tuple[Array, Array]:
        """A unit's weights per row, in both models, the other side's order and scale undone."""
        base, suspect = self._base[side.tensor], self._suspect[side.tensor]
        other = self._wiring.space_of(side.tensor, 1 - side.axis)
        scale = gains.columns if side.axis == 0 else gains.rows
        if other is not None:
            suspect = _take(suspect, self.picks[other], 1 - side.axis)
        shape = (1, -1, 1) if side.axis == 0 else (-1, 1, 1)
        suspect = suspect / scale.reshape(shape)
        if other is not None:
            base = base * (self.picks[other] >= 0).reshape(shape)
        return _rows(base, side.axis), _rows(suspect, side.axis)


def likelihood_ratio(base: Array, suspect: Array) -> NDArray[np.float64]:
    """Return how much better each pair of rows fits as scaled copies, ``(n, n')``.

    Example:
        >>> rows = np.eye(3)
        >>> (likelihood_ratio(rows, 5 * rows[[2, 0, 1]]) > 1).astype(int).tolist()
        [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    """
    cosines = np.clip(_normalised(base) @ _normalised(suspect).T, 0.0, _LARGEST_COSINE)
    used = np.count_nonzero(base.any(axis=0))
    return np.asarray(-used / 2 * np.log1p(-np.square(cosines, dtype=np.float64)))


def assign(gain: NDArray[np.float64]) -> Picks:
    """Return the best column for each row, each used once; -1 for rows without any.

    Where the numbers differ, units were removed or inserted, so a pair no better than the best of
    as many unrelated ones is no pair.
    """
    size, count = gain.shape
    gain = np.nan_to_num(gain, posinf=0.0)  # of weights too large or too small to compute with
    preferred = gain + _IDENTITY_BONUS * np.eye(size, count)
    rows, columns = linear_sum_assignment(preferred, maximize=True)
    picks = np.full(size, -1, dtype=np.int64)
    picks[rows] = columns
    if size != count:
        picks[rows[gain[rows, columns] < np.log(size * count)]] = -1
    return picks


def fit_gains(base: Array, suspect: Array) -> Gains:
    """Return the row and column scales of a plate, by alternating fits over its non-zero weights.

    Ratios of norms come first, which are positive whatever the noise; then least squares in the
    base model's units, so that a row that was scaled up counts no more than others.
    """
    energy: Array = np.square(base) * (suspect != 0)
    gains = Gains(np.ones(base.shape[0]), np.ones(base.shape[1]))
    squares: Array = np.square(suspect)
    for _ in range(_SCALING_STEPS):
        rows = _ratio(np.divide(squares, gains.columns[None, :, None] ** 2), energy, (1, 2))
        columns = _ratio(squares / rows[:, None, None], energy, (0, 2))
        gains = Gains(np.sqrt(rows), np.sqrt(columns))
    for step in range(_SCALING_STEPS):
        if step % 2 == 0:
            factor = _remaining_gain(base, gains.remove(suspect), energy, (1, 2))
            gains = Gains(gains.rows * factor, gains.columns)
        else:
            factor = _remaining_gain(base, gains.remove(suspect), energy, (0, 2))
            gains = Gains(gains.rows, gains.columns * factor)
    return gains


def _remaining_gain(base: Array, suspect: Array, energy: Array, axes: tuple[int, ...]) -> Array:
    """Least squares of suspect on base or, where small weights are gone, of base on suspect.

    Pruning keeps weights that the mark made larger, which looks like a scale if the suspect is
    fitted. But whether a weight is kept depends on the suspect's value alone, so the base given the
    suspect is not biased, only shrunk, by the share of the values' variance that remains.
    """
    kept = suspect != 0
    products: Array = base * suspect
    live = kept.any(axis=(1, 2)).sum() * kept.any(axis=(0, 2)).sum() * base.shape[2]
    if np.count_nonzero(kept) >= _UNPRUNED * live:
        factor = _ratio(products, energy, axes)
    else:
        squares: Array = np.square(suspect)
        slope = products.sum() / max(float(squares.sum()), _TINY)
        rest: Array = np.square((base - slope * suspect) * kept)
        typical = rest.sum() / max(int(kept.sum()), 1)
        remains = (rest.sum(axis=axes) + _PRIOR * typical) / (kept.sum(axis=axes) + _PRIOR)
        share = remains / np.maximum(np.square(base).mean(axis=axes), _TINY)
        factor = np.clip(1 - share, 0.5, 1.0) * _ratio(squares, products, axes)
    return np.asarray(np.clip(factor, *_STEP_LIMITS))


def norm_ratio(base: Array, suspect: Array) -> Array:
    """Return the scale of each row, positive; 1 for rows without weights."""
    kept = suspect != 0
    return np.asarray(np.sqrt(_ratio(np.square(suspect), np.square(base) * kept, (1,))))


def _ratio(upper: Array, lower: Array, axes: tuple[int, ...]) -> Array:
    above, below = upper.sum(axis=axes), lower.sum(axis=axes)
    usable = (below > _TINY) & (above > _TINY)
    ratio: Array = np.divide(above, below, out=np.ones_like(above), where=usable)
    return ratio


def _take(plate: Array, picks: Picks, axis: int) -> Array:
    taken: Array = np.take(plate, np.maximum(picks, 0), axis=axis)
    if (picks < 0).any():
        shape = [1] * plate.ndim
        shape[axis] = -1
        taken = np.asarray(taken * (picks >= 0).reshape(shape))
    return taken


def _rows(plate: Array, axis: int) -> Array:
    return np.moveaxis(plate, axis, 0).reshape(plate.shape[axis], -1)


def _normalised(rows: Array) -> NDArray[np.float32]:
    length = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return np.asarray(rows / np.maximum(length, _TINY), dtype=np.float32)
