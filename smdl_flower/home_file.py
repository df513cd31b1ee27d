"""``home.json``: what a home is, in the format of the version that wrote it.

Homes of every released version are read: each format has a function that makes the next one of it.
The file is not rewritten for that; a home on a read-only disk opens too.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from smdl_flower import files
from smdl_flower.errors import IntegrityError

NAME = "home.json"
FORMAT = "smdl-home/2"

Document = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a home file says.

    Attributes:
        registry_url: SQLAlchemy URL, may hold a password; None for SQLite in the home.
        tracing_only: Why nothing may be recorded in this home; empty if it may.
    """

    registry_url: str | None = field(default=None, repr=False)
    tracing_only: str = ""


def write(home: Path, settings: Settings) -> None:
    """Write a home's file, in the newest format."""
    files.write_json(home / NAME, {"format": FORMAT, **asdict(settings)})


def read(home: Path) -> Settings:
    """Read a home's file, of any released version.

    Raises:
        IntegrityError: It is missing or damaged, or of a version that is newer than this one.

    Example:
        >>> import tempfile
        >>> home = Path(tempfile.mkdtemp())
        >>> files.write_json(home / NAME, {"format": "smdl-home/1", "registry_url": None})
        >>> read(home)
        Settings(tracing_only='')
    """
    path = home / NAME
    try:
        document = _upgraded(path, json.loads(path.read_bytes()))
        url, why = document["registry_url"], document["tracing_only"]
        if not isinstance(url, str | None) or not isinstance(why, str):
            raise TypeError("values")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise IntegrityError(f"{path}: missing or damaged; restore it") from None
    return Settings(url, why)


def _upgraded(path: Path, document: Document) -> Document:
    while document["format"] != FORMAT:
        upgrade = UPGRADES.get(document["format"])
        if upgrade is None:
            if re.fullmatch(r"smdl-home/\d{1,4}", document["format"]):
                raise IntegrityError(
                    f"{path}: {document['format']} is of a newer version of smdl-flower (this one "
                    f"knows {FORMAT}); update it"
                )
            raise ValueError("format")
        document = upgrade(document)
    return document


def _from_1(document: Document) -> Document:
    """Version 0.1.0 knew no home that may only trace."""
    return {**document, "format": "smdl-home/2", "tracing_only": ""}


UPGRADES: dict[str, Callable[[Document], Document]] = {"smdl-home/1": _from_1}
