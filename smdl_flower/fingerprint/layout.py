"""Which weights carry a mark, and how a model becomes one long vector of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smdl_flower.weights import Weights

Vector = NDArray[np.float32]


@dataclass(frozen=True)
class MarkedTensor:
    """One marked tensor and its place in the vector.

    Attributes:
        name: Key in the state_dict.
        shape: Of the tensor.
        start: First position in the vector.
        stop: One past the last.
        scale: Standard deviation of the base model's values, the unit of its marks.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    scale: float

    @property
    def where(self) -> slice:
        """The tensor's positions in the vector."""
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Layout:
    """The marked tensors of a base model, by name; every tensor of two or more dimensions.

    Biases and normalisation are left alone: few values, and sensitive ones. A constant tensor has
    no scale to hide a mark in and is left alone too.

    Example:
        >>> base = {"fc.bias": np.zeros(2, np.float32), "fc.weight": np.eye(2, dtype=np.float32)}
        >>> layout = Layout.of(base)
        >>> [t.name for t in layout.tensors], layout.size
        (['fc.weight'], 4)
    """

    tensors: tuple[MarkedTensor, ...]

    @classmethod
    def of(cls, base: Weights) -> "Layout":
        """Return the layout of a base model."""
        tensors, position = [], 0
        for name in sorted(base):
            array = base[name]
            scale = float(array.std(dtype=np.float64)) if array.ndim >= 2 and array.size else 0.0
            if scale > 0.0:
                stop = position + array.size
                tensors.append(MarkedTensor(name, array.shape, position, stop, scale))
                position = stop
        return cls(tuple(tensors))

    @property
    def size(self) -> int:
        """Number of marked weights, d."""
        return self.tensors[-1].stop if self.tensors else 0

    def fits(self, weights: Weights) -> bool:
        """Whether a model has all marked tensors, by name and shape."""
        return bool(self.tensors) and all(
            t.name in weights and weights[t.name].shape == t.shape for t in self.tensors
        )

    def flatten(self, weights: Weights) -> Vector:
        """Return the marked weights of a model as one vector ``(d,)``."""
        vector = np.empty(self.size, dtype=np.float32)
        for tensor in self.tensors:
            vector[tensor.where] = weights[tensor.name].ravel()
        return vector

    def restore(self, weights: Weights, vector: Vector) -> Weights:
        """Return the model with its marked weights replaced; the argument is not changed."""
        marked = {t.name: vector[t.where].reshape(t.shape) for t in self.tensors}
        return {**weights, **marked}

    def pieces(self, size: int) -> Iterator[tuple[slice, float]]:
        """Yield ``(where, scale)`` for pieces of at most ``size`` weights, each of one tensor."""
        for tensor in self.tensors:
            for start in range(tensor.start, tensor.stop, size):
                yield slice(start, min(start + size, tensor.stop)), tensor.scale
