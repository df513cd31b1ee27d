"""A model folder as Hugging Face's libraries write it: config.json and one or more weight files.

Files are opened by plain names inside the folder, never through a link. The index of a sharded
model says which files there are; a name in it that is a path is refused. config.json is part of
the digest and is not read: which model it claims to be is no evidence.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from smdl_flower import weights
from smdl_flower.errors import MissingFileError, SuspectFileError
from smdl_flower.weights import Limits

CONFIG = "config.json"
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_INDEX = tuple(f"{name}.index.json" for name in _SINGLE)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_SHARDS = 1000
_TEXT = Limits(file_bytes=32 << 20)


@dataclass(frozen=True)
class Folder:
    """What was read of a folder.

    Attributes:
        models: Content of each weight file by its name in the folder, in order of names.
        others: Likewise of config.json and the index.
    """

    models: dict[str, bytes] = field(repr=False)
    others: dict[str, bytes] = field(repr=False)


def read(path: Path, limits: Limits) -> Folder:
    """Return the files of a model folder.

    Raises:
        SuspectFileError: No model folder, a file in it is a link or too large, or a name a path.
    """
    others = {CONFIG: _read(path, CONFIG, _TEXT)}
    names = next(([n] for n in _SINGLE if (path / n).exists()), [])
    for index in _INDEX if not names else ():
        if (path / index).exists():
            others[index] = _read(path, index, _TEXT)
            names = _shards(f"{path / index}", others[index])
            break
    if not names:
        raise SuspectFileError(
            f"{path}: a folder without {' or '.join(_SINGLE)} or their index; name the file that "
            "is to be examined"
        )
    models: dict[str, bytes] = {}
    for name in sorted(names):
        models[name] = _read(path, name, limits)
        if sum(map(len, models.values())) > limits.file_bytes:
            raise SuspectFileError(f"{path}: at most {limits.file_bytes:,} bytes are examined")
    return Folder(models, others)


def digest(folder: Folder) -> str:
    """Return one digest for the files of a folder.

    Example:
        >>> digest(Folder({"model.safetensors": b"..."}, {"config.json": b"{}"}))[:8]
        'ef3af056'
    """
    every = {**folder.models, **folder.others}
    total = hashlib.sha256(b"smdl-folder/1")
    for name in sorted(every):
        total.update(json.dumps([name, hashlib.sha256(every[name]).hexdigest()]).encode())
    return total.hexdigest()


def _read(path: Path, name: str, limits: Limits) -> bytes:
    try:
        return weights.read_bytes(path / name, limits)
    except MissingFileError:
        raise SuspectFileError(
            f"{path}: a folder without {name}; expected a model folder or a model file"
        ) from None


def _shards(source: str, content: bytes) -> list[str]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise SuspectFileError(f"{source}: not JSON") from None
    found = document.get("weight_map") if isinstance(document, dict) else None
    names = list(found.values()) if isinstance(found, dict) else []
    if not names or not all(isinstance(n, str) and _PLAIN_NAME.fullmatch(n) for n in names):
        raise SuspectFileError(f"{source}: weight_map must give plain names of files in the folder")
    if len(set(names)) > _SHARDS:
        raise SuspectFileError(f"{source}: more than {_SHARDS:,} files")
    return list(set(names))
