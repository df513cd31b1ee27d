"""Bring a suspect's weights back to the base model's names, shapes, channel order and scale.

A thief can rewrite a network without changing what it computes: rename and reorder tensors, permute
hidden units, scale them up and their readers down, insert dummies, factorise layers. Fingerprints
are read weight by weight, so all of that is undone first. Only w0 and the suspect are used, never a
customer's word or key (assumption A3), so whatever happens here an innocent's score keeps its law;
but each alignment that is read counts as a hypothesis in the bound.

Order of work: :mod:`renaming`, :mod:`structure`, :mod:`matching`, then the scales. Sources: Git
Re-Basin (2209.04836) for matching; Neural Structural Obfuscation (2303.09732) for the attacks;
Canon (2603.12679) for undoing them.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from smdl_flower.errors import NotComparableError
from smdl_flower.fingerprint import matching, renaming, structure
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.matching import Array, Matching, fit_gains
from smdl_flower.fingerprint.wiring import Wiring
from smdl_flower.weights import Weights

LEAST_MATCHED = 0.02
_UNPRUNED = 0.98
_WORTH_SCALING = 0.999  # share of the deviation's energy that may remain, beyond what fits remove
_OUTLIER = 4.0  # standard deviations of w0, or median deviations from it
_LARGEST = float(np.finfo(np.float32).max)
_CHANCE = 1.2  # times the cosine that the best of n unrelated rows would reach
_CLEARLY_ALIKE = 0.6
_SMALLEST_JUDGED = 500  # weights; of fewer, chance makes any of tensors look alike


@dataclass(frozen=True)
class Aligned:
    """A suspect in the base model's form.

    Attributes:
        weights: The base model's names and shapes.
        label: What was undone, for the verdict; "none" if nothing.
        matched: Share of the base model's marked weights that got a counterpart; the others are
            zero, which counts as erased.
    """

    weights: Weights = field(repr=False)
    label: str
    matched: float


def align(module: nn.Module, base: Weights, suspect: Weights) -> Aligned:
    """Return the suspect in the base model's form.

    A suspect of which nothing has to be undone comes back with its own values; one that was only
    reordered, exactly put back. Scales are estimated, so they absorb a little of any mark: one of
    the values of each row and column.

    Args:
        module: The base model's architecture; its values do not matter.
        base: w0.
        suspect: Any tensors, all finite. Not changed.

    Raises:
        NotComparableError: No plausible correspondence exists.

    Example:
        >>> from smdl_flower import models
        >>> module = models.build(models.ModelSpec("cnn", 1, 10, 28), seed=0)
        >>> base = models.to_weights(module)
        >>> order = np.random.default_rng(0).permutation(160)
        >>> hidden, head = base["hidden.weight"][order], base["head.weight"][:, order]
        >>> suspect = {**base, "hidden.weight": hidden, "head.weight": head}
        >>> aligned = align(module, base, suspect)
        >>> aligned.label, bool((aligned.weights["hidden.weight"] == base["hidden.weight"]).all())
        ('permutation', True)
    """
    suspect = {name: array for name, array in suspect.items() if array.size}
    with np.errstate(all="ignore"):
        renamed = renaming.rename(base, suspect)
    try:
        wiring = Wiring.of(module)
    except NotComparableError:
        return _without_wiring(base, renamed)
    # A suspect may hold anything; what overflows matches nothing and ends as a large finite value.
    with np.errstate(all="ignore"):
        return _Work(wiring, base, renamed).result()


def _without_wiring(base: Weights, renamed: renaming.Renamed) -> Aligned:
    """Names alone, for models whose structure no rule covers."""
    if not all(n in renamed.weights and renamed.weights[n].shape == base[n].shape for n in base):
        raise NotComparableError(
            "the suspect's tensors differ from the base model's, and the base model's structure is "
            "not one that alignment knows"
        )
    weights = {name: renamed.weights[name] for name in base}
    return Aligned(weights, " + ".join(renamed.labels) or "none", 1.0)


def _is_better(base: Array, array: Array, restored: Array) -> bool:
    """Whether removing scales brings a tensor closer to w0 than any fit of as many numbers would.

    A few enormous deviations do not decide.
    """
    kept = array != 0
    # In the suspect's units the fit is never worse than none; in w0's no enormous row hides any.
    units = np.divide(array, restored, out=np.ones_like(array), where=restored != 0)
    before = np.abs(array - base)[kept]
    bound = _OUTLIER * float(np.median(before)) if kept.any() else 0.0
    left = [np.abs(array - base * units)[kept], np.abs(restored - base)[kept]]
    energies = [float(np.square(np.minimum(d, bound)).sum()) for d in (before, *left)]
    if energies[0] == 0.0:
        return False
    share = min(energies[1:]) / energies[0]
    numbers = base.shape[0] + base.shape[1]
    if float(kept.mean()) < _UNPRUNED:  # pruning has a trace of its own that looks like a scale
        return share < 0.95 - 2 * float(numbers / base.size)
    chance = 1.5 * numbers + 6 * math.sqrt(2 * numbers)  # of chi-squared, with some room
    return share < _WORTH_SCALING - float(chance / base.size)


class _Work:
    """One suspect on its way to the base model's form."""

    def __init__(self, wiring: Wiring, base: Weights, renamed: renaming.Renamed) -> None:
        self._wiring, self._base = wiring, base
        suspect = structure.crop_kernels(base, renamed.weights)
        sizes = structure.count_units(wiring, base, suspect)
        suspect = structure.drop_misfits(wiring, base, suspect, sizes)
        structure.require_some(suspect)
        suspect, merged = structure.merge_copies(wiring, base, suspect, sizes)
        self._suspect = suspect
        self._plates = matching.plates(wiring, base, wiring.sizes)
        self._matching = Matching(
            wiring, self._plates, matching.plates(wiring, suspect, merged), merged
        )
        self._matching.run()
        cropped = any(a.shape[2:] != base[n].shape[2:] for n, a in renamed.weights.items())
        resized = any(sizes[s] != n for s, n in wiring.sizes.items())
        self._labels = [*renamed.labels, *(["structure"] if cropped or resized else [])]

    def result(self) -> Aligned:
        """Put the tensors together."""
        order = [p for p in self._matching.picks.values() if (p != np.arange(len(p)))[p >= 0].any()]
        arrays = {name: self._matching.undone(name) for name in self._wired()}
        scaled = self._rescaled(arrays)
        arrays.update(scaled)
        marked = [t.name for t in Layout.of(self._base).tensors]
        for name in marked:
            if name in arrays and self._is_chance(name, arrays[name]):
                arrays[name] = np.zeros_like(arrays[name])
        labels = self._labels + ["permutation"] * bool(order) + ["rescaling"] * bool(scaled)
        weights = {name: self._shaped(name, arrays) for name in self._base}
        matched = self._matched(weights, marked)
        if matched < LEAST_MATCHED:
            raise NotComparableError(
                f"only {matched:.1%} of the base model's weights have a counterpart in the suspect"
            )
        return Aligned(weights, " + ".join(labels) or "none", matched)

    def _wired(self) -> list[str]:
        return [name for name in self._plates if name in self._suspect]

    def _rescaled(self, arrays: dict[str, Array]) -> dict[str, Array]:
        """The plates that were rescaled, without their scales."""
        result, scales = {}, {}
        for name, array in arrays.items():
            base = self._plates[name]
            if base.shape[1] * base.shape[2] == 1:
                continue
            gains = fit_gains(base, array)
            restored = gains.remove(array)
            if _is_better(base, array, restored):
                result[name] = restored
                scales[self._scale(name)] = gains.rows
        return result | self._rescaled_vectors(arrays, scales)

    def _rescaled_vectors(
        self, arrays: dict[str, Array], scales: dict[int, Array]
    ) -> dict[str, Array]:
        """Biases, divided by the scale of their units."""
        return {
            name: array / scales[self._scale(name)][:, None, None]
            for name, array in arrays.items()
            if array[0].size == 1 and self._scale(name) in scales
        }

    def _scale(self, name: str) -> int:
        return next(s.scale for s in self._wiring.sides if (s.tensor, s.axis) == (name, 0))

    def _is_chance(self, name: str, array: Array) -> bool:
        """Whether a tensor is no more like w0's than one that has nothing to do with it.

        A new last layer, for example. Left as it is, its deviation from w0 would only be noise.
        """
        base = self._plates[name]
        if base.size < _SMALLEST_JUDGED:
            return False
        bound = _OUTLIER * float(np.std(base))  # a few enormous weights must not decide
        bounded = np.clip(array, -bound, bound)
        length = float(np.linalg.norm(base) * np.linalg.norm(bounded))
        cosine = float(np.vdot(base, bounded)) / max(length, 1e-30)
        chance = _CHANCE * math.sqrt(2 * math.log(len(base)) / base[0].size)
        return cosine < min(max(0.05, chance), _CLEARLY_ALIKE)

    def _shaped(self, name: str, arrays: dict[str, Array]) -> NDArray[np.float32]:
        shape = self._base[name].shape
        if name in arrays:
            bounded = np.clip(np.nan_to_num(arrays[name]), -_LARGEST, _LARGEST)
            return bounded.reshape(shape).astype(np.float32)
        if name in self._suspect and self._suspect[name].shape == shape:
            return self._suspect[name]
        return np.zeros(shape, dtype=np.float32)

    def _matched(self, weights: Weights, marked: list[str]) -> float:
        """Share of marked weights whose units on both sides have a counterpart."""
        found = 0.0
        for name in marked:
            if weights[name].any():
                share = 1.0
                for axis in (0, 1):
                    space = self._wiring.space_of(name, axis)
                    if space is not None:
                        share *= float(np.mean(self._matching.picks[space] >= 0))
                found += share * weights[name].size
        return found / max(1, sum(weights[name].size for name in marked))
