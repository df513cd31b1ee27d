"""Write ONNX by hand: the fields of onnx.proto that our reader knows, independent of it."""

import struct
from collections.abc import Sequence

import numpy as np

TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int64": 7, "float16": 10, "float64": 11}


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    pieces = []
    while number > 127:
        pieces.append(number & 127 | 128)
        number >>= 7
    return bytes([*pieces, number])


def field(number: int, value: bytes | int | float | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, array: np.ndarray, kind: int | None = None, shape=None) -> bytes:
    dims = b"".join(field(1, n) for n in (array.shape if shape is None else shape))
    kind = TYPES[str(array.dtype)] if kind is None else kind
    return dims + field(2, kind) + field(8, name) + field(9, np.ascontiguousarray(array).tobytes())


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **numbers: int) -> bytes:
    message = b"".join(field(1, i) for i in inputs) + b"".join(field(2, o) for o in outputs)
    attributes = (field(1, n) + field(3, v) + field(20, 2) for n, v in numbers.items())
    return message + field(4, operator) + b"".join(field(5, a) for a in attributes)


def constant(name: str, value: bytes) -> bytes:
    attribute = field(1, "value") + field(5, value) + field(20, 4)
    return field(2, name) + field(4, "Constant") + field(5, attribute)


def graph(nodes: Sequence[bytes], tensors: Sequence[bytes]) -> bytes:
    return b"".join(field(1, n) for n in nodes) + b"".join(field(5, t) for t in tensors)


def model(nodes: Sequence[bytes], tensors: Sequence[bytes]) -> bytes:
    return field(1, 8) + field(2, "by hand") + field(7, graph(nodes, tensors))
