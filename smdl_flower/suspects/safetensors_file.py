"""safetensors with types that :mod:`smdl_flower.weights` does not read: quantised weights.

Format: https://huggingface.co/docs/safetensors (8-byte header length, JSON header, raw buffer).
"""

import json
from typing import Any

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects.tensors import StoredTensor, item_bytes, stored
from smdl_flower.weights import Limits

_FLOATS = ("F64", "F32", "F16", "BF16")


def is_one(content: memoryview) -> bool:
    """Whether the content begins as a safetensors file does, so far as it goes."""
    return bytes(content[8:9]) == b"{"


def is_plain(content: memoryview, limits: Limits) -> bool:
    """Whether :func:`smdl_flower.weights.parse` is the one to read it, or to refuse it."""
    try:
        header = _header(content, limits)
    except SuspectFileError:
        return True
    types = [e.get("dtype") if isinstance(e, dict) else None for e in header.values()]
    return not any(isinstance(t, str) and t not in _FLOATS for t in types)


def read(content: memoryview, limits: Limits | None = None) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file.

    Raises:
        SuspectFileError: Damaged, truncated, or a tensor claims more than there is.
    """
    header = _header(content, limits or Limits())
    start = 8 + int.from_bytes(content[:8], "little")
    return {name: _tensor(name, e, content[start:]) for name, e in sorted(header.items())}


def _header(content: memoryview, limits: Limits) -> dict[str, Any]:
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > limits.header_bytes or 8 + length > len(content):
        raise SuspectFileError(f"safetensors: truncated, or a header of {length:,} bytes")
    try:
        header = json.loads(bytes(content[8 : 8 + length]))
    except (ValueError, RecursionError):
        raise SuspectFileError("safetensors: the header is not JSON") from None
    if not isinstance(header, dict) or len(header) > limits.tensors:
        raise SuspectFileError(
            f"safetensors: the header must name at most {limits.tensors:,} tensors"
        )
    header.pop("__metadata__", None)
    return header


def _tensor(name: str, entry: Any, buffer: memoryview) -> StoredTensor:
    what = f"safetensors: tensor {name[:80]!r}"
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape = fields.get("dtype"), fields.get("shape")
    data = _span(fields.get("data_offsets"), buffer)
    if not isinstance(dtype, str) or not isinstance(shape, list) or data is None:
        raise SuspectFileError(f"{what} has no valid type, shape or position")
    try:
        tensor = stored(data, dtype, shape)
    except SuspectFileError as error:
        raise SuspectFileError(f"{what} {error}") from None
    if tensor.dtype not in ("I4", "U4") and tensor.size * item_bytes(dtype) != len(data):
        raise SuspectFileError(f"{what} does not fill its {len(data):,} bytes")
    return tensor


def _span(span: Any, buffer: memoryview) -> memoryview | None:
    if not isinstance(span, list) or len(span) != 2 or not all(type(n) is int for n in span):
        return None
    return buffer[span[0] : span[1]] if 0 <= span[0] <= span[1] <= len(buffer) else None
