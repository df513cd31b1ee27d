"""Bytes as a Flower array, and an array's bytes as what a stranger sent: read with care."""

import io
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

LONGEST_HEADER = 4096  # bytes of a .npy header, more than numpy writes
NUMPY = "numpy.ndarray"


class BlobError(ValueError):
    """An array is not what it claims to be."""


def to_record(name: str, content: bytes) -> ArrayRecord:
    """Return a record that holds nothing but some bytes.

    Example:
        >>> from_record(to_record("letter", b"hello"), "letter", most=5)
        b'hello'
    """
    return ArrayRecord({name: Array(np.frombuffer(content, np.uint8))})


def from_record(record: ArrayRecord, name: str, most: int) -> bytes:
    """Return the bytes of a record that may be hostile; nothing is decoded.

    Args:
        record: As :func:`to_record` makes it, if its sender is honest.
        name: Of its one array.
        most: How many bytes there may be.

    Raises:
        BlobError: It holds something else, or more.
    """
    array = record.get(name)
    if len(record) != 1 or array is None or array.stype != NUMPY:
        raise BlobError("expected one array of bytes")
    if len(array.data) > most + LONGEST_HEADER:
        raise BlobError(f"{len(array.data):,} bytes; at most {most:,} are expected")
    shape, dtype, start = header(array.data)
    size = len(array.data) - start
    if shape != (size,) or dtype != np.uint8 or size > most:
        raise BlobError("not stored as bytes, or too many")
    return array.data[start:]


def header(data: bytes) -> tuple[tuple[int, ...], "np.dtype[Any]", int]:
    """Return shape and type that a serialised array claims, and where its values begin.

    numpy reserves memory for what is claimed before it looks whether it is there.

    Raises:
        BlobError: It has no header that numpy would read.
    """
    try:
        stream = io.BytesIO(data[:LONGEST_HEADER])
        if np.lib.format.read_magic(stream) != (1, 0):
            raise BlobError("a .npy format of another version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except Exception as error:  # hostile bytes may fail in any way
        raise BlobError(f"cannot be decoded ({type(error).__name__})") from None
    if fortran and len(shape) > 1:
        raise BlobError("stored column by column")
    return shape, dtype, stream.tell()
