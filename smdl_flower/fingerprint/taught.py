"""Take out of a deviation what teaching a copy its answers may have put there.

Copies that answer queries (:mod:`smdl_flower.blackbox`) differ from w0 in one layer by far more
than a carrier, but in few directions of that layer's input, the same for all customers. A row's
part in their span is found by least squares over the weights that are left, and subtracted: of a
carrier only its share in the span is lost. The directions are fixed before any word is drawn, so
what carriers are compared with is still a function of suspect, w0 and what all copies share (the
lemma of docs/analysis.md).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smdl_flower.fingerprint.layout import Layout, Vector

# Where fewer weights of a row are left than there are directions, these explain all of them.
_RIDGE = 1e-6


@dataclass(frozen=True)
class Directions:
    """Where copies of a base model were taught.

    Attributes:
        name: Of the taught tensor; its first dimension are the rows.
        basis: Orthonormal columns, ``(columns, r)``, columns being the weights of a row.
    """

    name: str
    basis: NDArray[np.float32] = field(repr=False)

    def without(
        self, values: Vector, layout: Layout, profile: Vector, kept: NDArray[np.bool_]
    ) -> Vector:
        """Return a deviation without its part in these directions.

        Args:
            values: Deviation of the marked weights, zero where not kept, ``(d,)``.
            layout: Of the marked weights.
            profile: phi, ``(d,)``: a column with large values holds more of a carrier, which is
                noise to the fit, and so counts less.
            kept: Which weights count, ``(d,)``.

        Returns:
            ``(d,)``, zero where not kept.

        Example:
            >>> layout = Layout.of({"fc": np.eye(2, 4, dtype=np.float32)})
            >>> taught = Directions("fc", np.array([[0.6], [0.8], [0], [0]], np.float32))
            >>> values = np.array([3, 4, 5, 6, 0, 0, 0, 7], np.float32)
            >>> rest = taught.without(values, layout, np.ones(8, np.float32), np.ones(8, bool))
            >>> rest.round(3).tolist()
            [0.0, 0.0, 5.0, 6.0, 0.0, 0.0, 0.0, 7.0]
        """
        rest = values.copy()
        for tensor in layout.tensors:
            if tensor.name == self.name:
                shape = tensor.shape[0], -1
                rows, phi = (v[tensor.where].reshape(shape) for v in (values, profile))
                left = kept[tensor.where].reshape(shape)
                # One scale for all rows: the profile is nearly a product of one of the rows and
                # one of the columns.
                scale = phi.mean(0, dtype=np.float64).astype(np.float32)
                explained = self._explained(rows / scale, left, scale) * scale
                rest[tensor.where] = (rows - explained * left).ravel()
        return rest

    def _explained(self, rows: Vector, left: NDArray[np.bool_], scale: Vector) -> Vector:
        """What the directions explain of each row, all in units of scale, ``(rows, columns)``."""
        basis = np.linalg.qr(self.basis / scale[:, None])[0].astype(np.float32)
        found = rows @ basis
        if left.all():
            return np.asarray(found @ basis.T)
        ridge = np.float32(_RIDGE) * np.eye(basis.shape[1], dtype=np.float32)
        # One row at a time: each has lost other weights.
        amounts = [
            np.linalg.solve(basis[here].T @ basis[here] + ridge, row)
            for row, here in zip(found, left, strict=True)
        ]
        return np.asarray(np.stack(amounts) @ basis.T)
