"""Which tensor of a suspect is which tensor of the base model, whatever they are called.

Names are tried first, without prefixes that frameworks add. What is left is matched by shape and by
numbers that neither a reordering of units nor a positive rescaling changes: rows and columns are
brought to equal norm (Sinkhorn scaling of the squares, unique), then the products between weight
positions and the singular values are compared. Layers that were factorised into two are multiplied
back first.
"""

import itertools
import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from smdl_flower.weights import Weights

Array = NDArray[np.float32]

_BALANCING_STEPS = 12
_TRUST_IN_NAMES = 0.5  # a tensor keeps its name unless another fits twice as well


@dataclass(frozen=True)
class Renamed:
    """A suspect under the base model's names, as far as it could be told.

    Attributes:
        weights: Base name -> the suspect's tensor, of any size but as many dimensions.
        labels: What was undone.
    """

    weights: Weights = field(repr=False)
    labels: tuple[str, ...]


def rename(base: Weights, suspect: Weights) -> Renamed:
    """Return the suspect's tensors under the base model's names."""
    found = _by_name(base, suspect)
    rest = {n: a for n, a in suspect.items() if n not in found.values()}
    merged = _merged_factors({n: a for n, a in base.items() if n not in found}, rest)
    arrays = {name: suspect[source] for name, source in found.items()}
    labels = ["low-rank"] if merged else []
    for name, (array, sources) in merged.items():
        arrays[name] = array
        rest = {n: a for n, a in rest.items() if n not in sources}
    by_shape = _by_shape({n: a for n, a in base.items() if n not in arrays}, rest, base, found)
    arrays.update({name: suspect[source] for name, source in by_shape.items()})
    swapped = _swapped(base, arrays)
    if by_shape or swapped or any(name != source for name, source in found.items()):
        labels.append("renamed")
    arrays |= {n: arrays[s] for n, s in swapped.items()}
    same = {n: a for n, a in arrays.items() if a.ndim == base[n].ndim}
    return Renamed(same, tuple(labels))


def without_prefix(base: Weights, suspect: Weights) -> Weights | None:
    """Return the suspect under the base model's names, if one prefix is all that is different.

    Names alone decide, so that this is no other reading than that of the suspect as it lies. None
    if the names are the base model's already, or no prefix fits, or several do.

    Example:
        >>> one = np.zeros(1, np.float32)
        >>> without_prefix({"a.w": one}, {"module.a.w": one, "step": one})
        {'a.w': array([0.], dtype=float32)}
    """
    if not base or all(name in suspect for name in base):
        return None
    first = min(base)
    prefixes = {name.removesuffix(first) for name in suspect if name.endswith(f".{first}")}
    fitting = [p for p in prefixes if all(p + name in suspect for name in base)]
    return {name: suspect[fitting[0] + name] for name in base} if len(fitting) == 1 else None


def _by_name(base: Weights, suspect: Weights) -> dict[str, str]:
    """Base name -> the suspect's name that is the same, or the same behind a prefix."""
    found = {name: name for name in suspect if _alike(base, name, suspect[name])}
    for name in suspect:
        parts = [] if name in found else name.split(".")
        ends = (".".join(parts[i:]) for i in range(1, len(parts)))
        end = next((e for e in ends if _alike(base, e, suspect[name])), None)
        if end is not None:
            found.setdefault(end, name)
    return found


def _alike(base: Weights, name: str, array: Array) -> bool:
    return name in base and base[name].ndim == array.ndim


def _merged_factors(base: Weights, rest: Weights) -> dict[str, tuple[Array, tuple[str, ...]]]:
    """Layers that two consecutive tensors multiply to, and the tensors used (with biases)."""
    names = sorted((n for n in rest if rest[n].ndim >= 2), key=_natural)
    merged: dict[str, tuple[Array, tuple[str, ...]]] = {}
    wanted = [n for n in sorted(base, key=_natural) if base[n].ndim >= 2]
    used: set[str] = set()
    for first, second in itertools.pairwise(names):
        product = None if used & {first, second} else _product(rest[first], rest[second])
        fitting = [n for n in wanted if product is not None and base[n].shape == product.shape]
        if product is None or not fitting:
            continue
        name = _closest(base, fitting, first, product)
        used |= {first, second}
        wanted.remove(name)
        merged[name] = (product, (first, second))
        bias, own = f"{_stem(name)}.bias", f"{_stem(second)}.bias"
        if bias in base and own in rest and rest[own].shape == base[bias].shape:
            merged[bias] = (rest[own], (own,))
    return merged


def _closest(base: Weights, names: list[str], source: str, product: Array) -> str:
    """The layer that the product is: by name if it says so, else by its values."""
    named = [n for n in names if source.endswith(n) or f"{_stem(n)}." in source]
    candidates = named or names
    target = _invariants(product)
    return min(candidates, key=lambda n: float(np.linalg.norm(_invariants(base[n]) - target)))


def _product(first: Array, second: Array) -> Array | None:
    """The layer that does the work of two in a row, if they fit and the first is narrow."""
    inner = first.shape[0]
    fits = second.shape[1] == inner and second.size == second.shape[0] * inner
    if not fits or inner > min(first[0].size, second.shape[0]):
        return None
    flat = second.reshape(-1, inner) @ first.reshape(inner, -1)
    return np.asarray(flat.reshape(second.shape[0], *first.shape[1:]))


def _by_shape(
    missing: Weights, rest: Weights, base: Weights, found: dict[str, str]
) -> dict[str, str]:
    """Base name -> the suspect's, for tensors whose name says nothing."""
    result: dict[str, str] = {}
    for shape in sorted({a.shape for a in missing.values() if a.ndim >= 2}):
        names = [n for n in sorted(missing, key=_natural) if missing[n].shape == shape]
        sources = [n for n in sorted(rest, key=_natural) if rest[n].shape == shape]
        if sources:
            cost = _distances([missing[n] for n in names], [rest[n] for n in sources])
            rows, columns = linear_sum_assignment(cost)
            result |= {names[r]: sources[c] for r, c in zip(rows, columns, strict=True)}
    result |= _in_order(missing, rest, result)
    stems = {_stem(n): _stem(s) for n, s in {**found, **result}.items() if base[n].ndim >= 2}
    vectors = {n: a for n, a in missing.items() if a.ndim < 2}
    for name in vectors:
        source = f"{stems.get(_stem(name), '')}.{name.rpartition('.')[2]}"
        if source in rest and rest[source].ndim < 2:
            result[name] = source
    return result | _in_order(vectors, rest, result, dimensions=1)


def _in_order(
    missing: Weights, rest: Weights, known: dict[str, str], dimensions: int = 2
) -> dict[str, str]:
    """The remaining tensors by their order, if there are as many of each number of dimensions."""
    result: dict[str, str] = {}
    ndims = {a.ndim for a in missing.values()}
    for ndim in sorted(d for d in ndims if d >= dimensions or dimensions == 1):
        taken = set(known.values())
        names = [n for n in sorted(missing, key=_natural) if missing[n].ndim == ndim]
        names = [n for n in names if n not in known]
        sources = [s for s in sorted(rest, key=_natural) if rest[s].ndim == ndim]
        sources = [s for s in sources if s not in taken]
        if len(names) == len(sources):
            result |= dict(zip(names, sources, strict=True))
    return result


def _swapped(base: Weights, arrays: Weights) -> dict[str, str]:
    """Tensors of one shape that exchanged their names: base name -> name that it goes by."""
    result: dict[str, str] = {}
    kept = [n for n in arrays if base[n].ndim >= 2 and base[n].shape == arrays[n].shape]
    for shape in sorted({base[n].shape for n in kept}):
        names = [n for n in kept if base[n].shape == shape]
        if len(names) > 1:
            cost = _distances([base[n] for n in names], [arrays[n] for n in names])
            cost[np.diag_indices(len(names))] *= _TRUST_IN_NAMES
            rows, columns = linear_sum_assignment(cost)
            result |= {names[r]: names[c] for r, c in zip(rows, columns, strict=True) if r != c}
    return result


def _distances(ours: list[Array], theirs: list[Array]) -> NDArray[np.float64]:
    known, found = [_invariants(a) for a in ours], [_invariants(a) for a in theirs]
    distances = [[float(np.linalg.norm(k - f)) for f in found] for k in known]
    return np.asarray(np.nan_to_num(np.array(distances), nan=1e30, posinf=1e30))


def _invariants(array: Array) -> NDArray[np.float64]:
    """Numbers that order and positive scale of rows and columns leave as they are.

    Example:
        >>> w = np.random.default_rng(0).standard_normal((6, 5, 3)).astype(np.float32)
        >>> changed = w[::-1, [2, 0, 1, 4, 3]] * np.arange(1, 6, dtype=np.float32)[:, None]
        >>> bool(np.allclose(_invariants(w), _invariants(changed), atol=1e-3))
        True
    """
    plate = array.reshape(array.shape[0], array.shape[1], -1).astype(np.float64)
    for _ in range(_BALANCING_STEPS):
        plate = plate / max(float(np.abs(plate).max(initial=0.0)), 1e-300)
        for axis in (0, 1):
            others = tuple(i for i in range(3) if i != axis)
            norms = np.sqrt(np.square(plate).mean(axis=others, keepdims=True))
            plate = plate / np.where(norms > 0, norms, 1)
    rows, columns, positions = plate.shape
    flat = plate.reshape(-1, positions)
    between = (flat.T @ flat)[np.triu_indices(positions)] / np.sqrt(rows * columns)
    wide = plate.reshape(rows, -1)
    values = np.linalg.eigvalsh(wide @ wide.T) / (columns * positions)
    return np.concatenate([between, values])


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _natural(name: str) -> list[tuple[int, str]]:
    """Order in which ``layer10`` comes after ``layer9``."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name[:400]) if p]
