"""JSON from the other side of an interface, which may be anything: parsed and checked, or refused.

Nothing is believed: neither that numbers are finite, nor that there are as many as were asked for.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import ConfigError, MissingFileError, SuspectAnswersError

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]
Top = list[dict[int, float]]
ClassNames = Mapping[str, int]

_SHOWN = 80
_NAMES_BYTES = 16 << 20


def parse(body: bytes) -> Any:
    """Return a JSON document, in which no number is NaN or infinite by name.

    Raises:
        SuspectAnswersError: It is none, or nested too deeply.

    Example:
        >>> parse(b'{"labels": [NaN]}')
        Traceback (most recent call last):
        ...
        smdl_flower.errors.SuspectAnswersError: no JSON document (NaN is no number)
    """
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except RecursionError:
        raise SuspectAnswersError("no JSON document (nested too deeply)") from None
    except ValueError as error:  # also wrong UTF-8, and whole numbers of thousands of digits
        raise SuspectAnswersError(f"no JSON document ({str(error)[:_SHOWN]})") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def member(document: Any, key: str) -> Any:
    """Return what an object has under a key.

    Raises:
        SuspectAnswersError: It is no object, or has no such key.
    """
    if not isinstance(document, dict) or key not in document:
        raise SuspectAnswersError(f"expected a JSON object with {key!r}, not {shown(document)}")
    return document[key]


def items(value: Any, count: int) -> list[Any]:
    """Return a list of that many entries.

    Raises:
        SuspectAnswersError: It is none.
    """
    if not isinstance(value, list) or len(value) != count:
        raise SuspectAnswersError(f"expected a list of {count}, not {shown(value)}")
    return value


def labels(value: Any, count: int, names: ClassNames | None = None) -> Labels:
    """Return class numbers from a list of numbers or names.

    Args:
        value: From the document.
        count: How many were asked for.
        names: Class names; None takes numerals.

    Raises:
        SuspectAnswersError: Not so many labels, or other things than labels.

    Example:
        >>> labels([3, "cat"], 2, {"cat": 5}).tolist()
        [3, 5]
    """
    return np.array([_label(entry, names) for entry in items(value, count)], np.int64)


def scores(value: Any, count: int) -> Scores:
    """Return rows of finite numbers, all of one length, ``(count, classes)``.

    Raises:
        SuspectAnswersError: It is anything else.
    """
    rows = items(value, count)
    width = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    return np.array([[number(x) for x in items(row, width or 1)] for row in rows], np.float64)


def top(value: Any, count: int, names: ClassNames | None = None) -> Top:
    """Return the likeliest classes of each image, from objects of class name -> probability.

    Raises:
        SuspectAnswersError: It is anything else, or one class is named twice.

    Example:
        >>> top([{"3": 0.9, "5": 0.1}], 1)
        [{3: 0.9, 5: 0.1}]
    """
    return [_likeliest(entry, names) for entry in items(value, count)]


def _likeliest(entry: Any, names: ClassNames | None) -> dict[int, float]:
    if not isinstance(entry, dict) or not entry:
        raise SuspectAnswersError(f"expected an object of classes, not {shown(entry)}")
    read = {_label(name, names): number(share) for name, share in entry.items()}
    if len(read) != len(entry):
        raise SuspectAnswersError(f"a class is there twice in {shown(entry)}")
    return read


def number(value: Any) -> float:
    """Return a finite number.

    Raises:
        SuspectAnswersError: It is anything else; true is no number.
    """
    if type(value) in (int, float):
        try:
            if math.isfinite(value):
                return float(value)
        except OverflowError:  # a whole number that no float holds
            pass
    raise SuspectAnswersError(f"expected a finite number, not {shown(value)}")


def _label(value: Any, names: ClassNames | None) -> int:
    if isinstance(value, str):
        if names is not None and value in names:
            return names[value]
        if value.isascii() and value.isdigit() and len(value) < 10:
            return int(value)
        raise SuspectAnswersError(
            f"class {shown(value)} is not known; list the names, in the order of the owner's "
            "classes, in a file: --class-names"
        )
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise SuspectAnswersError(f"expected a class, not {shown(value)}")
    return value


def shown(value: Any) -> str:
    """Return a few characters of what somebody sent, without writing all of it out."""
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of many digits"
    return repr(value[:_SHOWN] if isinstance(value, str) else value)


def read_names(path: Path) -> dict[str, int]:
    """Read class names, one a line, in the order of the owner's classes.

    Raises:
        MissingFileError: There is no such file.
        ConfigError: It is no text, too large, or a name is there twice.
    """
    try:
        if path.stat().st_size > _NAMES_BYTES:
            raise ConfigError(f"{path}: more than {_NAMES_BYTES:,} bytes; expected class names")
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise MissingFileError(f"{path}: there is no such file") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: no UTF-8 text; expected a class name a line") from None
    names = {name.strip(): index for index, name in enumerate(lines)}
    if len(names) != len(lines) or "" in names:
        raise ConfigError(f"{path}: a name is empty or there twice; expected a class name a line")
    return names
