"""Every field of a JSON document, and another value for each."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

_DIGITS = [*"0123456789abcdef", "0"]
Where = tuple[str | int, ...]
Edit = Callable[[Any], object]


def leaves(document: Any, where: Where = ()) -> Iterator[Where]:
    """Yield where the values of a JSON document are; of long lists the ends alone.

    Example:
        >>> list(leaves({"a": 1, "b": [{"c": 2}, {"c": 3}]}))
        [('a',), ('b', 0, 'c'), ('b', 1, 'c')]
    """
    if isinstance(document, dict) and document:
        for key, value in document.items():
            yield from leaves(value, (*where, key))
    elif isinstance(document, list) and document:
        for index in sorted({0, 1, len(document) - 1} & set(range(len(document)))):
            yield from leaves(document[index], (*where, index))
    else:
        yield where


def other(value: Any) -> Any:
    """Return another value of the same kind.

    Example:
        >>> other(True), other(3), other("ab12"), other(None), other([])
        (False, 4, 'ab13', 'x', ['x'])
    """
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + max(1, abs(value) // 50)
    if isinstance(value, float):
        return 1.02 * value + 0.01
    if isinstance(value, str) and value[-1:] in _DIGITS[:-1]:
        return value[:-1] + _DIGITS[_DIGITS.index(value[-1:]) + 1]
    return ["x"] if value == [] else f"{value or ''}x"


def change(document: Any, where: Sequence[str | int]) -> None:
    """Put another value at that place."""
    for step in where[:-1]:
        document = document[step]
    document[where[-1]] = other(document[where[-1]])


def altering(where: Sequence[str | int]) -> Callable[[Path], None]:
    """Return what puts another value at a place of a file."""
    return editing(lambda document: change(document, where))


def editing(edit: Edit) -> Callable[[Path], None]:
    """Return what edits the document in a file."""
    return lambda path: edit_file(path, edit)


def edit_file(path: Path, edit: Edit) -> None:
    """Edit the document in a file."""
    document = json.loads(path.read_bytes())
    edit(document)
    path.write_text(json.dumps(document))


def words(where: Sequence[str | int]) -> str:
    """Return a place as text."""
    return "/".join(map(str, where))
