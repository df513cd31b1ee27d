"""A tensor as it lies in a file: bytes, type, shape and strides, checked before it is read.

What a file claims is compared with the bytes that it holds: no tensor has more values than its
storage, so a few bytes cannot be expanded to gigabytes by strides of zero.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import SuspectFileError

DIMENSIONS = 16
_VALUES = 1 << 40
_NUMPY = {
    **{"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "F8_E4M3": "u1", "F8_E5M2": "u1"},
    **{"I8": "i1", "U8": "u1", "I16": "i2", "U16": "u2", "I32": "i4", "U32": "u4"},
    **{"I64": "i8", "U64": "u8", "BOOL": "u1", "I4": "u1", "U4": "u1"},
}
_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_NIBBLES = ("I4", "U4")
SMALL_INTEGERS = ("I8", "U8", *_NIBBLES)


@dataclass(frozen=True)
class Affine:
    """What whole numbers mean: ``(number - zero) * scale``.

    Attributes:
        scale: One number, or one for each index of ``axis``.
        zero: Likewise.
        axis: None if there is one scale for all.
        block: If not zero, scales have the numbers' dimensions, and so many numbers along the axis
            share one.
    """

    scale: NDArray[np.float32]
    zero: NDArray[np.float32]
    axis: int | None = None
    block: int = 0

    def apply(self, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the numbers mean.

        Raises:
            SuspectFileError: There are not as many scales as needed.

        Example:
            >>> rows = Affine(np.float32([1, 2]), np.float32([0, 1]), axis=0)
            >>> rows.apply(np.ones((2, 2), np.float32)).tolist()
            [[1.0, 1.0], [0.0, 0.0]]
        """
        scale, zero = (self._spread(part, numbers.shape) for part in (self.scale, self.zero))
        with np.errstate(all="ignore"):
            return np.asarray((numbers - zero) * scale, np.float32).reshape(numbers.shape)

    def _spread(self, part: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Scales in a form that numpy multiplies with an array of that shape."""
        if part.size == 1:
            return part.reshape(())
        axis = self.axis if self.axis is not None else len(shape)
        if -len(shape) <= axis < len(shape):
            count = shape[axis]
            if self.block > 0 and part.ndim == len(shape) and part.shape[axis] <= count:
                spread = np.repeat(part, min(self.block, count), axis)
                return self._fitting(np.take(spread, np.arange(count), axis, mode="clip"), shape)
            if part.size == count:
                return part.reshape(
                    [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]
                )
        raise SuspectFileError(f"{part.size:,} scales for numbers of shape {shape}")

    @staticmethod
    def _fitting(part: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
        if part.shape != shape:
            raise SuspectFileError(f"scales of shape {part.shape} for numbers of shape {shape}")
        return part


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that was found in a file. Made by :func:`stored`, which checks it.

    Attributes:
        data: The bytes of its storage.
        dtype: A key of the types above, as safetensors calls them.
        shape: Sizes.
        strides: In values; None if the values lie in C order.
        offset: Of the first value in the storage, in values.
        order: ``<`` or ``>``, how bytes of a value are ordered.
        affine: What the numbers mean, if they are quantised.
        transposed: Whether the matrix is turned, after all else.
    """

    data: memoryview = field(repr=False)
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    offset: int = 0
    order: str = "<"
    affine: Affine | None = None
    transposed: bool = False

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def is_float(self) -> bool:
        """Whether the values are numbers with a fraction, or stand for such."""
        return self.dtype in _FLOATS or self.affine is not None

    def numbers(self) -> NDArray[Any]:
        """Return the values as they are stored: numpy's type, 16-bit and smaller floats widened."""
        if self.dtype in _NIBBLES:
            return self._nibbles()
        flat = np.frombuffer(self.data, np.dtype(self.order + _NUMPY[self.dtype]), -1)
        strides = self.strides or _c_strides(self.shape)
        array = np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.shape, [s * flat.itemsize for s in strides], writeable=False
        )
        return _widened(array, self.dtype)

    def values(self) -> NDArray[np.float32]:
        """Return what the tensor means, as float32 in C order."""
        numbers = self.numbers()
        with np.errstate(over="ignore", invalid="ignore"):
            array = np.array(numbers, dtype=np.float32, order="C")
        meant = self.affine.apply(array) if self.affine else array
        return np.array(meant.T, order="C") if self.transposed else meant

    def meaning(self, affine: Affine) -> "StoredTensor":
        """Return the same numbers with another meaning."""
        return replace(self, affine=affine)

    def _nibbles(self) -> NDArray[Any]:
        packed = np.frombuffer(self.data, np.uint8)
        both = np.stack([packed & 15, packed >> 4], axis=1).reshape(-1)[: self.size]
        signed = both.astype(np.int8)
        if self.dtype == "I4":
            signed = np.where(signed > 7, signed - 16, signed)
        return signed.reshape(self.shape)


def stored(
    data: memoryview,
    dtype: str,
    shape: Sequence[Any],
    strides: Sequence[Any] | None = None,
    *,
    offset: Any = 0,
    order: str = "<",
) -> StoredTensor:
    """Return a tensor after checking that its storage holds all of its values.

    Raises:
        SuspectFileError: An unknown type, sizes or strides that are none, or more values than
            there are bytes for.

    Example:
        >>> four = memoryview(np.arange(4, dtype="<f4").tobytes())
        >>> stored(four, "F32", [2, 2], [1, 2]).values().tolist()
        [[0.0, 2.0], [1.0, 3.0]]
        >>> stored(four, "F32", [2000, 2000], [0, 0])
        Traceback (most recent call last):
            ...
        smdl_flower.errors.SuspectFileError: claims 4,000,000 values in a storage of 16 bytes
    """
    if dtype not in _NUMPY:
        raise SuspectFileError(f"has type {dtype[:20]!r}; examined are {', '.join(_NUMPY)}")
    for what in (shape, strides or (), (offset,)):
        if len(what) > DIMENSIONS or not all(type(n) is int and 0 <= n <= _VALUES for n in what):
            raise SuspectFileError("has no valid shape, strides or offset")
    if strides is not None and len(strides) != len(shape):
        raise SuspectFileError("has no valid shape, strides or offset")
    sizes = tuple(shape)
    steps = None if strides is None or tuple(strides) == _c_strides(sizes) else tuple(strides)
    tensor = StoredTensor(data, dtype, sizes, steps, offset, order)
    _require_bytes(tensor)
    return tensor


def item_bytes(dtype: str) -> int:
    """Return the bytes of a value; one for numbers of four bits, which lie two in a byte."""
    return int(np.dtype(_NUMPY[dtype]).itemsize)


def _require_bytes(tensor: StoredTensor) -> None:
    available = len(tensor.data) * 2
    width = 1 if tensor.dtype in _NIBBLES else 2 * item_bytes(tensor.dtype)  # in halves of a byte
    strides = tensor.strides or _c_strides(tensor.shape)
    last = (
        sum((n - 1) * s for n, s in zip(tensor.shape, strides, strict=True)) if tensor.size else 0
    )
    most = max(tensor.offset + last + 1, tensor.size) if tensor.size else tensor.offset
    # Even of an empty array numpy multiplies the sizes that are not zero, in 64 bits.
    if most * width > available or math.prod(n or 1 for n in tensor.shape) > _VALUES:
        raise SuspectFileError(
            f"claims {tensor.size:,} values in a storage of {len(tensor.data):,} bytes"
        )
    if tensor.dtype in _NIBBLES and (tensor.strides or tensor.offset):
        raise SuspectFileError("has four-bit numbers that do not lie one after the other")
    if not tensor.size and max(strides, default=0) > 1 << 32:
        raise SuspectFileError("has no valid shape, strides or offset")


def _c_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _widened(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype == "BF16":  # the upper half of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return (array.astype(np.uint16) << 8).view(np.float16)
    return _E4M3[array] if dtype == "F8_E4M3" else array


def _e4m3() -> NDArray[np.float32]:
    """What each byte means as a sign, 4 bits of exponent and 3 of fraction (no infinities)."""
    byte = np.arange(256)
    exponent, fraction = (byte >> 3) & 15, byte & 7
    size = np.where(
        exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7)
    )
    size = np.where((byte & 127) == 127, np.nan, size)
    return np.where(byte > 127, -size, size).astype(np.float32)


_E4M3 = _e4m3()
