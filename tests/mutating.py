"""Valid content with changes, which gets further into a reader than bytes made up."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

EXTREMES = [
    *(bytes(4), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 8, b"\x80" * 9, b"."),
    *(b"(", b")", b"R", b"\x81", b"b", b"cos\nsystem\n", b"u", b"s", b"t", b"\x85", b"0", b"2"),
    *(b"PK\x05\x06", b"PK\x01\x02", b"../", b"true", b"null", b"-1", b"1e9", b"[]", b"{}"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.5, -0.0, 1e308, -1e-308, float("nan"), float("inf"), float("-inf")),
    *("", "0", "-1", "x", "../../etc/passwd", "\0", "\ud800", "é" * 5, "9" * 5000, "00" * 32),
    *([], {}, [[]], [None], {"": None}, [0] * 500, [[[[[[[[1]]]]]]]]),
]


def changed(content: bytes, rng: np.random.Generator) -> bytes:
    """A file with one to four changes: bytes, extreme values, pieces moved, removed or doubled."""
    result = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at, kind = int(rng.integers(len(result) + 1)), rng.integers(6)
        length = int(rng.integers(1, 64))
        if kind <= 1 and at < len(result):
            result[at] = rng.integers(256)
        elif kind == 2:
            piece = EXTREMES[rng.integers(len(EXTREMES))]
            result[at : at + len(piece)] = piece
        elif kind == 3:
            result[at:at] = EXTREMES[rng.integers(len(EXTREMES))]
        elif kind == 4:
            del result[at : at + length]
        else:
            there = int(rng.integers(len(result) + 1))
            result[at:at] = result[there : there + length]
    return bytes(result[: rng.integers(len(result) + 1)] if rng.integers(20) == 0 else result)


def changed_document(document: Any, rng: np.random.Generator) -> Any:
    """A JSON document with one to three values replaced, removed, moved or doubled."""
    result = copy.deepcopy(document)
    for _ in range(rng.integers(1, 4)):
        places = list(_places(result))
        if not places:
            return VALUES[rng.integers(len(VALUES))]
        parent, key = places[rng.integers(len(places))]
        kind = rng.integers(6)
        if kind <= 2:
            parent[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])
        elif kind == 3:
            del parent[key]
        elif kind == 4:  # of another place
            other, there = places[rng.integers(len(places))]
            parent[key] = copy.deepcopy(other[there])
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        else:
            parent[str(rng.integers(9))] = parent[key]
    return result


def changed_json(content: bytes, rng: np.random.Generator) -> bytes:
    """A JSON document with changes, of its values or, seldom, of its text."""
    if rng.integers(4) == 0:
        return changed(content, rng)
    text = json.dumps(changed_document(json.loads(content), rng))
    if rng.integers(10) == 0:  # a key twice
        text = text.replace("{", '{"format": 1, ', 1)
    if rng.integers(100) == 0:
        text = "[" * 100_000 + text
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield container and key of every value within."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])
