"""Model weights in safetensors files: reader and writer of the model files of this package.

A suspect file is hostile. It is read once into memory, within a size limit, and its header is
checked before anything is allocated for a tensor; nothing in it is ever executed or unpickled.
Suspects of other formats are converted to such files by :mod:`smdl_flower.suspects`.
Format: https://huggingface.co/docs/safetensors (8-byte header length, JSON header, raw buffer).
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from smdl_flower import files
from smdl_flower.errors import MissingFileError, SuspectFileError

Weights = dict[str, NDArray[np.float32]]

_ITEM_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_ARCHIVE_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_DIMENSIONS = 16
_VALUES = 1 << 40  # numpy multiplies the non-zero sizes even of an empty array, in 64 bits


@dataclass(frozen=True)
class Limits:
    """What a model file may claim before it is refused.

    Attributes:
        file_bytes: Size of the whole file.
        header_bytes: Size of the JSON header.
        tensors: Number of tensors.
    """

    file_bytes: int = 8 << 30
    header_bytes: int = 8 << 20
    tensors: int = 20_000


@dataclass(frozen=True)
class ModelFile:
    """A model file as read.

    Attributes:
        weights: Tensor name -> float32 array, all finite.
        metadata: The file's own string metadata; whoever wrote the file chose it, so trust none.
        sha256: Digest of the file's bytes, hexadecimal.
    """

    weights: Weights
    metadata: dict[str, str]
    sha256: str


def read(path: Path, limits: Limits | None = None) -> ModelFile:
    """Read a safetensors file that may be hostile.

    Half, bfloat16 and double tensors are converted to float32.

    Raises:
        MissingFileError: There is no such file.
        SuspectFileError: Not a regular file, not safetensors, over a limit, truncated, a tensor
            that is not floating point, or a value that is NaN, infinite or too large for float32.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> write(path, {"layer.weight": np.eye(2, dtype=np.float32)}, {"model": "example"})
        >>> read(path).weights["layer.weight"].tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return parse(read_bytes(path, limits), str(path), limits)


def read_bytes(path: Path, limits: Limits | None = None) -> bytes:
    """Return the content of a file that may be hostile, whatever it holds.

    Raises:
        MissingFileError: There is no such file.
        SuspectFileError: Not a regular file, too large, or it changed meanwhile.
    """
    most = (limits or Limits()).file_bytes
    try:
        # A link may point anywhere; a pipe would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, ValueError):  # ValueError: a NUL in the name
        raise MissingFileError(f"{path}: there is no such file") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise SuspectFileError(f"{path}: cannot be opened as a plain file ({reason})") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise SuspectFileError(f"{path}: not a regular file; expected a model file")
    with os.fdopen(descriptor, "rb") as stream:
        if status.st_size > most:
            raise SuspectFileError(
                f"{path}: {status.st_size:,} bytes, at most {most:,} are examined"
            )
        content = stream.read(status.st_size + 1)
    if len(content) != status.st_size:
        raise SuspectFileError(f"{path}: changed while it was read; copy it, then examine the copy")
    return content


def parse(content: bytes, source: str, limits: Limits | None = None) -> ModelFile:
    """Read the content of a safetensors file that may be hostile; see :func:`read`.

    Args:
        content: All of it.
        source: What to call it in an error.
        limits: What it may claim.

    Raises:
        SuspectFileError: As for :func:`read`.
    """
    metadata = _checked_header(source, content, limits or Limits()).get("__metadata__", {})
    try:
        tensors = safetensors.deserialize(content)  # checks offsets against each other and the file
    except safetensors.SafetensorError as error:
        reason = _quoted(str(error), 200)  # may repeat names from the file
        raise SuspectFileError(f"{source}: not a valid safetensors file ({reason})") from None
    named = sorted(tensors, key=lambda tensor: tensor[0])  # else the first error is any of them
    arrays = {name: _to_float32(source, name, tensor) for name, tensor in named}
    return ModelFile(arrays, metadata, hashlib.sha256(content).hexdigest())


def write(
    path: Path,
    weights: Mapping[str, NDArray[np.float32]],
    metadata: Mapping[str, str] | None = None,
    *,
    replace: bool = False,
) -> None:
    """Write weights as a private safetensors file, whole or not at all.

    Raises:
        OutputExistsError: The file exists and ``replace`` is false.
    """
    files.write(path, to_bytes(weights, metadata), replace=replace)


def to_bytes(
    weights: Mapping[str, NDArray[np.float32]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return the content of a safetensors file."""
    # Not ascontiguousarray, which turns a number into a vector of one.
    contiguous = {name: np.asarray(array, order="C") for name, array in weights.items()}
    return safetensors.numpy.save(contiguous, dict(metadata) if metadata else None)


def digest(weights: Mapping[str, NDArray[np.float32]]) -> str:
    """Return the SHA-256 of names, shapes and values, whatever file they are stored in.

    Example:
        >>> a = {"b": np.ones(2, np.float32), "a": np.zeros((1, 2), np.float32)}
        >>> digest(a) == digest(dict(reversed(a.items())))
        True
    """
    total = hashlib.sha256(b"smdl-weights/1")
    for name in sorted(weights):
        array = np.asarray(weights[name], dtype="<f4", order="C")
        total.update(json.dumps([name, list(array.shape)]).encode())
        total.update(array.data)
    return total.hexdigest()


def _checked_header(source: str, content: bytes, limits: Limits) -> dict[str, Any]:
    # The length of a safetensors header may begin like a pickle, but the header begins with "{".
    pickled = content.startswith(_PICKLE_MAGIC) and content[8:9] != b"{"
    if pickled or content.startswith(_ARCHIVE_MAGIC):
        raise SuspectFileError(
            f"{source}: a pickle or PyTorch archive, which can run code when loaded; smdl verify "
            "examines those; else convert it to safetensors on a machine that may be lost"
        )
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > limits.header_bytes or 8 + length > len(content):
        raise SuspectFileError(
            f"{source}: not a safetensors file, or truncated ({len(content):,} bytes, header "
            f"claims {length:,}; at most {limits.header_bytes:,})"
        )
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError):
        raise SuspectFileError(f"{source}: the safetensors header is not JSON") from None
    if not isinstance(header, dict) or len(header) > limits.tensors:
        raise SuspectFileError(f"{source}: the header must name at most {limits.tensors:,} tensors")
    for name, entry in header.items():
        if name == "__metadata__":
            _check_metadata(source, entry)
        else:
            _check_entry(source, name, entry, len(content) - 8 - length)
    return header


def _check_metadata(source: str, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise SuspectFileError(f"{source}: not a valid safetensors file (metadata must be texts)")


def _check_entry(source: str, name: str, entry: Any, available: int) -> None:
    what = f"{source}: tensor {_quoted(name)}"
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape = fields.get("dtype"), fields.get("shape")
    if not isinstance(dtype, str) or dtype not in _ITEM_SIZES:
        found = _quoted(dtype, 20) if isinstance(dtype, str) else "none"
        raise SuspectFileError(f"{what} has type {found}; examined are {', '.join(_ITEM_SIZES)}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise SuspectFileError(f"{what} has no valid shape")
    if len(shape) > _DIMENSIONS:
        raise SuspectFileError(f"{what} has {len(shape):,} dimensions, at most {_DIMENSIONS}")
    claimed = math.prod(shape) * _ITEM_SIZES[dtype]
    if claimed > available or math.prod(n or 1 for n in shape) > _VALUES:
        raise SuspectFileError(f"{what} claims too many values; the file holds {available:,} bytes")


def _quoted(text: str, length: int = 80) -> str:
    """A word from a file as it may be shown: short, and with no control character."""
    return repr(text[:length])


def _to_float32(source: str, name: str, tensor: Mapping[str, Any]) -> NDArray[np.float32]:
    raw, dtype = tensor["data"], tensor["dtype"]
    if dtype == "BF16":  # the upper half of a float32
        array = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        stored = np.frombuffer(raw, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype])
        with np.errstate(over="ignore", invalid="ignore"):
            array = stored.astype(np.float32)
    if not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise SuspectFileError(
            f"{source}: tensor {_quoted(name)} has {count} values that are NaN, infinite or too "
            "large"
        )
    return array.reshape(tensor["shape"])
