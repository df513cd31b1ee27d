"""Protocol buffers on the wire: the fields of a message, one after the other, as views of it.

Format: https://protobuf.dev/programming-guides/encoding. Only what ONNX uses: no groups.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import SuspectFileError

Value = int | memoryview
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    r"""Yield number and value of each field; texts, bytes, messages and packed numbers are views.

    Raises:
        SuspectFileError: The message is damaged.

    Example:
        >>> list(fields(memoryview(b"\x08\x96\x01")))
        [(1, 150)]
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind, start = key & 7, at
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _LENGTH:
            length, start = _varint(message, at)
        else:
            length = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
        at = start + length
        if length < 0 or at > len(message):
            raise SuspectFileError("damaged: a field reaches beyond its message")
        yield key >> 3, message[start:at]


def varints(packed: memoryview) -> list[int]:
    """Return packed numbers.

    Raises:
        SuspectFileError: The last one is cut off, or one is too long.
    """
    at, numbers = 0, []
    while at < len(packed):
        number, at = _varint(packed, at)
        numbers.append(number)
    return numbers


def repeated(values: list[Value]) -> list[int]:
    """Return the numbers of a repeated field, packed or not."""
    return [n for v in values for n in ([v] if isinstance(v, int) else varints(v))]


def fixed(values: list[Value]) -> memoryview:
    """Return the bytes of a repeated field of fixed width, packed or not."""
    parts = [v for v in values if not isinstance(v, int)]
    return parts[0] if len(parts) == 1 else memoryview(b"".join(parts))


def text(value: Value) -> str:
    """Return a text; one that is no UTF-8 with replacements."""
    return "" if isinstance(value, int) else bytes(value).decode("utf-8", "replace")


def narrowed(numbers: list[int], width: int) -> memoryview:
    """Return numbers as little-endian bytes of so many each, without what does not fit."""
    wide: NDArray[np.uint64] = np.array(numbers, np.uint64)
    return memoryview(wide.astype(f"<u{width}").tobytes())


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    number = 0
    for i, byte in enumerate(data[at : at + _VARINT_BYTES]):
        number |= (byte & 127) << (7 * i)
        if byte < 128:
            return number & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise SuspectFileError("damaged: a number is cut off")
