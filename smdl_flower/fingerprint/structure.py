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
from smdl_flower.fingerprint.matching import Array
from smdl_flower.fingerprint.wiring import Side, Wiring
from smdl_flower.weights import Weights

_PASSES = 3
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
    suspect, sizes = dict(suspect), dict(sizes)
    for _ in range(_PASSES):  # outgoing weights split at random hide copies until they are summed
        before = dict(sizes)
        for space, size in wiring.sizes.items():
            if sizes[space] > size and space not in wiring.pinned:
                _merge_space(wiring, base, suspect, space, sizes)
        if sizes == before:
            break
    return suspect, sizes


def _merge_space(
    wiring: Wiring, base: Weights, suspect: Weights, space: int, sizes: dict[int, int]
) -> None:
    makers = [s for s in wiring.of_space(space) if s.makes and s.tensor in suspect]
    if not makers:
        return
    own, _ = _closeness(makers, base, wiring.sizes[space])
    np.fill_diagonal(own, 0.0)
    alike, lengths = _closeness(makers, suspect, sizes[space])
    # Half way between the most similar of the base model's own units and equality.
    limit = min((1 + max(0.0, float(own.max()))) / 2, 1 - _SMALLEST_DIFFERENCE)
    leader = np.argmax(alike > limit, axis=1)  # the first unit that is alike
    leader = np.where(alike.max(axis=1) > limit, leader, np.arange(len(leader)))
    leader = leader[leader]
    kept = np.flatnonzero(leader == np.arange(len(leader)))
    if len(kept) == len(leader):
        return
    for side in wiring.of_space(space):
        if side.tensor not in suspect:
            continue
        array = suspect[side.tensor]
        if side.makes:
            suspect[side.tensor] = array[kept]
        else:
            length = lengths.get(side.scale, np.ones(len(leader)))
            gain = length / np.maximum(length[leader], 1e-30)
            suspect[side.tensor] = _summed(array, leader, kept, gain)
    sizes[space] = len(kept)


def _summed(
    array: Array, leader: NDArray[np.int64], kept: NDArray[np.int64], gain: NDArray[np.float64]
) -> Array:
    """What is read of each kept unit, with that of its copies added in proportion to their size."""
    plate = array.reshape(array.shape[0], len(leader), -1)
    mixing = np.zeros((len(kept), len(leader)), dtype=np.float32)
    mixing[np.searchsorted(kept, leader), np.arange(len(leader))] = gain
    summed = np.einsum("ku,oup->okp", mixing, plate, optimize=True)
    return np.asarray(summed.reshape(array.shape[0], -1, *array.shape[2:]))


def _closeness(
    makers: list[Side], weights: Weights, size: int
) -> tuple[NDArray[np.float64], dict[int, NDArray[np.float64]]]:
    """The least cosine of two units over all that makes them, and each unit's length by scale."""
    least = np.ones((size, size))
    lengths = {}
    for scale in {s.scale for s in makers}:
        parts = [weights[s.tensor].reshape(size, -1) for s in makers if s.scale == scale]
        rows = np.concatenate(parts, axis=1).astype(np.float64)
        lengths[scale] = np.sqrt(np.square(rows).sum(axis=1))
        rows /= np.maximum(lengths[scale], 1e-30)[:, None]
        least = np.minimum(least, rows @ rows.T)
    return least, lengths


def require_some(suspect: Weights) -> None:
    """Raise if none of the suspect's tensors has a counterpart.

    Raises:
        NotComparableError: There is none.
    """
    if not any(array.ndim >= 2 for array in suspect.values()):
        raise NotComparableError("no tensor of the suspect fits the base model's structure")
