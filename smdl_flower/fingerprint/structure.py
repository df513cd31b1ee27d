"""Undo changes of a network's structure that do not change what it computes.

Neural structural obfuscation (Yan et al., 2303.09732) broke nine white-box schemes by inserting
dummy neurons: units nobody listens to, cliques whose outgoing weights cancel, units split into
several with the same incoming weights, kernels padded with zeros. As in Canon (2603.12679), units
with parallel incoming weights are merged by adding up what is read of them; then a clique has
outgoing weights of zero. Which of the remaining units are the base model's own is found by
:mod:`matching`, so that dummies need no test of their own.
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import NotComparableError
from smdl_flower.fingerprint.wiring import Side, Wiring
from smdl_flower.weights import Weights

Array = NDArray[np.float32]

_TINY = 1e-150
_SMALLEST_DIFFERENCE = 1e-4  # in 1 - cosine; rounding to float32 stays far below, to float16 below


def crop_kernels(base: Weights, suspect: Weights) -> Weights:
    """Return the suspect with kernels cut to the base model's size, about their centre."""
    return {name: _cropped(array, base[name].shape) for name, array in suspect.items()}


def _cropped(array: Array, shape: tuple[int, ...]) -> Array:
    for axis in range(2, array.ndim):
        extra = array.shape[axis] - shape[axis]
        if extra > 0 and extra % 2 == 0:
            array = np.take(array, range(extra // 2, extra // 2 + shape[axis]), axis=axis)
    return array


def count_units(wiring: Wiring, base: Weights, suspect: Weights) -> dict[int, int]:
    """Return the number of units in each of the suspect's spaces, as most of its weights say."""
    sizes = {}
    for space, size in wiring.sizes.items():
        votes: Counter[int] = Counter()
        for side in wiring.of_space(space):
            count = _units(side, size, base, suspect)
            if count:
                votes[count] += suspect[side.tensor].size
        sizes[space] = votes.most_common(1)[0][0] if votes else size
    return sizes


def drop_misfits(wiring: Wiring, base: Weights, suspect: Weights, sizes: dict[int, int]) -> Weights:
    """Return the suspect's tensors that have the numbers of units most others speak for."""
    misfits = {
        side.tensor
        for side in wiring.sides
        if _units(side, wiring.sizes[side.space], base, suspect) != sizes[side.space]
    }
    wired = {s.tensor for s in wiring.sides}
    return {
        name: array
        for name, array in suspect.items()
        if name not in misfits
        and (array.shape[2:] == base[name].shape[2:])
        and (name in wired or array.shape == base[name].shape)
    }


def _units(side: Side, size: int, base: Weights, suspect: Weights) -> int:
    """How many units of a space a suspect's tensor counts; 0 if it is missing or does not fit."""
    if side.tensor not in suspect:
        return 0
    block = base[side.tensor].shape[side.axis] // size  # columns per channel behind a flattening
    found = suspect[side.tensor].shape[side.axis]
    return 0 if found % block else found // block


def merge_copies(
    wiring: Wiring, base: Weights, suspect: Weights, sizes: dict[int, int]
) -> tuple[Weights, dict[int, int]]:
    """Return the suspect with split units merged, where it has more units than the base model.

    Args:
        wiring: Of the base model.
        base: Its tensors.
        suspect: Tensors with these numbers of units.
        sizes: Units of each space.

    Returns:
        The tensors, and their numbers of units. The arguments are not changed.
    """
    if all(sizes[space] <= size for space, size in wiring.sizes.items()):
        return suspect, sizes
    ours = _Network(wiring, dict(base), dict(wiring.sizes))
    theirs = _Network(wiring, dict(suspect), dict(sizes))
    for space, size in wiring.sizes.items():
        present = {n for n in suspect if n in base}
        own, alike = ours.closeness(space, present), theirs.closeness(space, present)
        if theirs.sizes[space] > size and space not in wiring.pinned:
            np.fill_diagonal(own, 0.0)
            # Half way between the most similar of the base model's own units and equality.
            limit = (1 + max(0.0, float(own.max()))) / 2
            theirs.merge(space, alike > min(limit, 1 - _SMALLEST_DIFFERENCE))
    return theirs.weights, theirs.sizes


class _Network:
    """A network whose units are compared, and merged, from input to output."""

    def __init__(self, wiring: Wiring, weights: Weights, sizes: dict[int, int]) -> None:
        self._wiring = wiring
        self.weights, self.sizes = weights, sizes
        self._lengths: dict[int, NDArray[np.float64]] = {}  # of the weights that make a unit
        self._done: set[int] = set()

    def closeness(self, space: int, present: set[str]) -> NDArray[np.float64]:
        """Return the least cosine of two units over all that makes them, ``(n, n)``.

        What reads units that were not compared yet, in a residual network, is left out: it may
        still be split in a different way for each row.
        """
        makers = [s for s in self._wiring.of_space(space) if s.makes and s.tensor in present]
        ready = [s for s in makers if self._reads(s) in self._done | {None} | self._wiring.pinned]
        size = self.sizes[space]
        least = np.ones((size, size))
        for scale in {s.scale for s in ready}:
            rows = np.concatenate([self._rows(s) for s in ready if s.scale == scale], axis=1)
            lengths = np.sqrt(np.square(rows).sum(axis=1))
            self._lengths[scale] = lengths
            rows /= np.maximum(lengths, _TINY)[:, None]
            least = np.minimum(least, rows @ rows.T)
        self._done.add(space)
        return least if ready else np.eye(size)

    def merge(self, space: int, alike: NDArray[np.bool_]) -> None:
        """Merge units into the first one that each is like; what is read of them is added up."""
        np.fill_diagonal(alike, val=True)
        leader = np.argmax(alike, axis=1)
        leader = leader[leader]
        kept = np.unique(leader)
        leader = np.where(np.isin(np.arange(len(leader)), kept), np.arange(len(leader)), leader)
        for side in self._wiring.of_space(space):
            if side.tensor in self.weights:
                array = self.weights[side.tensor]
                length = self._lengths.get(side.scale, np.ones(len(leader)))
                gain = length / np.maximum(length[leader], _TINY)
                self.weights[side.tensor] = (
                    array[kept] if side.axis == 0 else _summed(array, leader, kept, gain)
                )
        for scale in {s.scale for s in self._wiring.of_space(space)} & set(self._lengths):
            self._lengths[scale] = self._lengths[scale][kept]
        self.sizes[space] = len(kept)

    def _reads(self, side: Side) -> int | None:
        return self._wiring.space_of(side.tensor, 1)

    def _rows(self, side: Side) -> NDArray[np.float64]:
        """What makes each unit, with the scale of what it reads undone."""
        array = self.weights[side.tensor].astype(np.float64)
        reads = next(
            (s for s in self._wiring.sides if (s.tensor, s.axis) == (side.tensor, 1)), None
        )
        if reads is not None and reads.scale in self._lengths:
            plate = array.reshape(len(array), self.sizes[reads.space], -1)
            array = plate * self._lengths[reads.scale][None, :, None]
        return array.reshape(len(array), -1)


def _summed(
    array: Array, leader: NDArray[np.int64], kept: NDArray[np.int64], gain: NDArray[np.float64]
) -> Array:
    """What is read of each kept unit, with that of its copies added in proportion to their size."""
    plate = array.reshape(array.shape[0], len(leader), -1)
    mixing = np.zeros((len(kept), len(leader)), dtype=np.float32)
    mixing[np.searchsorted(kept, leader), np.arange(len(leader))] = gain
    summed = np.einsum("ku,oup->okp", mixing, plate, optimize=True)
    return np.asarray(summed.reshape(array.shape[0], -1, *array.shape[2:]))


def require_some(suspect: Weights) -> None:
    """Raise if none of the suspect's tensors has a counterpart.

    Raises:
        NotComparableError: There is none.
    """
    if not any(array.ndim >= 2 for array in suspect.values()):
        raise NotComparableError("no tensor of the suspect fits the base model's structure")
