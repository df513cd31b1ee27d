"""Whole numbers back to weights: numbers that lie beside the scales that give them a meaning.

Understood are the common conventions, told by names. With W the name of a weight:

- ``W`` (8 bits, or float8) and ``W_scale`` [and ``W_zero_point``]: compressed-tensors, and most
  others (``W_quantized``: ONNX Runtime); the scale is one number, one a row, or one for each group
  of a row's values.
- ``STEM.weight`` and ``STEM.SCB``: bitsandbytes, one a row, the largest number is 127.
- ``W_packed`` (8 numbers of 4 bits, or 4 of 8, in 32 bits), ``W_scale``, ``W_shape``:
  compressed-tensors.
- ``STEM.qweight``, ``qzeros``, ``scales`` [and ``g_idx``]: GPTQ, 4 or 8 bits, packed along the
  inputs.

Numbers of 8 bits or less without a scale count as they are: alignment finds scales by itself.
Other whole numbers are counters and indices, and are left out.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects.naming import Tensors
from smdl_flower.suspects.tensors import SMALL_INTEGERS, StoredTensor

Array = NDArray[np.float32]

_SCALES = ("_scale", ".scale", "_scales", "_scale_inv")


def weights(tensors: Tensors, most: int) -> dict[str, Array]:
    """Return what tensors mean, as float32.

    Args:
        tensors: By name.
        most: Bytes that all of them may have as float32.

    Raises:
        SuspectFileError: Scales do not fit, or it would be more than that.
    """
    _require_room(tensors, most)
    result: dict[str, Array] = {}
    left = dict(tensors)
    for stem in [n.removesuffix("qweight") for n in tensors if n.endswith("qweight")]:
        _move(result, left, f"{stem}weight", _gptq(left, stem))
    for name in [n.removesuffix("_packed") for n in tensors if n.endswith("_packed")]:
        _move(result, left, name, _packed(left, name))
    for name in list(left):
        if name in left:
            _move(result, left, name, _scaled(left, name))
    plain = {n: t.values() for n, t in left.items() if _is_weight(t)}
    return result | plain


def is_quantised(tensors: Tensors) -> bool:
    """Whether some of the tensors are weights in few bits."""
    return any(
        t.affine or t.dtype in SMALL_INTEGERS or n.endswith(("qweight", "_packed"))
        for n, t in tensors.items()
    )


def _require_room(tensors: Tensors, most: int) -> None:
    # 8 numbers of 4 bits in one of 32: the most that a value can become.
    total = sum(t.size * (32 if t.dtype in ("I32", "U32") else 4) for t in tensors.values())
    if total > most:
        raise SuspectFileError(f"tensors of {total:,} bytes as float32, at most {most:,}")


def _is_weight(tensor: StoredTensor) -> bool:
    return tensor.is_float or (tensor.dtype in SMALL_INTEGERS and len(tensor.shape) > 1)


def _move(
    result: dict[str, Array], left: Tensors, name: str, made: tuple[Array, set[str]] | None
) -> None:
    if made:
        result[name], used = made
        for each in used:
            left.pop(each, None)


def _scaled(tensors: Tensors, name: str) -> tuple[Array, set[str]] | None:
    """A weight of small numbers with a scale beside it."""
    tensor, stem = tensors[name], name.removesuffix("weight")
    if tensor.dtype not in (*SMALL_INTEGERS, "F8_E4M3", "F8_E5M2") or tensor.affine:
        return None
    if stem != name and f"{stem}SCB" in tensors:
        scale = tensors[f"{stem}SCB"].values() / np.float32(127)
        return _grouped(tensor.values(), scale), {name, f"{stem}SCB"}
    base = name.removesuffix("_quantized")
    found = next((base + s for s in _SCALES if base + s in tensors), None)
    if found is None:
        return None
    zeros = next((base + z for z in ("_zero_point", ".zero_point") if base + z in tensors), "")
    zero = tensors[zeros].values() if zeros else np.zeros(1, np.float32)
    return _grouped(tensor.values(), tensors[found].values(), zero), {name, found, zeros}


def _packed(tensors: Tensors, name: str) -> tuple[Array, set[str]] | None:
    parts = [f"{name}_packed", f"{name}_scale", f"{name}_shape"]
    if not all(p in tensors for p in parts):
        return None
    packed, shape = (tensors[p].numbers() for p in (parts[0], parts[2]))
    sizes = [int(n) for n in np.asarray(shape).reshape(-1)[:2]]
    if packed.dtype.kind not in "iu" or packed.ndim != 2 or len(sizes) != 2 or min(sizes) < 1:
        raise SuspectFileError(f"tensor {name[:80]!r} is packed in a way that is not known")
    bits = 4 if sizes[1] > 4 * packed.shape[1] else 8
    numbers = _split(packed, bits) - np.float32(1 << (bits - 1))
    if sizes[0] != len(numbers) or not 0 <= numbers.shape[1] - sizes[1] < 32 // bits:
        raise SuspectFileError(f"tensor {name[:80]!r} is packed in a way that is not known")
    values = np.asarray(tensors[parts[1]].values())
    return _grouped(numbers[:, : sizes[1]], values), set(parts)


def _gptq(tensors: Tensors, stem: str) -> tuple[Array, set[str]] | None:
    parts = [f"{stem}{n}" for n in ("qweight", "qzeros", "scales")]
    if not all(p in tensors for p in parts):
        return None
    packed, zeros = (tensors[p].numbers() for p in parts[:2])
    scales = tensors[parts[2]].values()
    if any(a.ndim != 2 or not a.size for a in (packed, zeros, scales)):
        raise SuspectFileError(f"tensor {parts[0][:80]!r} is packed in a way that is not known")
    index, outputs = tensors.get(f"{stem}g_idx"), scales.shape[1]
    inputs = index.size if index else 0
    fits = [b for b in (4, 8) if -(-outputs * b // 32) == zeros.shape[1]]
    bits = next((b for b in fits if inputs * b in (0, 32 * len(packed))), 0)
    if not bits or zeros.dtype.kind not in "iu" or packed.dtype.kind not in "iu":
        raise SuspectFileError(f"tensor {parts[0][:80]!r} is packed in a way that is not known")
    numbers = _split(packed.T, bits)  # (outputs, inputs)
    zero = _split(zeros, bits)[:, :outputs] + 1
    groups = _groups(index, numbers.shape[1], len(scales))
    if len(numbers) != outputs or zero.shape != scales.shape or groups is None:
        raise SuspectFileError(f"tensor {parts[0][:80]!r}: scales do not fit")
    with np.errstate(all="ignore"):
        values = (numbers - zero[groups].T) * scales[groups].T
    return np.asarray(values, np.float32), {*parts, f"{stem}g_idx"}


def _groups(index: StoredTensor | None, inputs: int, groups: int) -> NDArray[Any] | None:
    """The group that each input belongs to."""
    if index is None:
        return np.arange(inputs) // -(-inputs // groups)
    found = np.asarray(index.numbers()).reshape(-1)
    fits = found.dtype.kind in "iu" and len(found) == inputs and found.min() >= 0
    return found if fits and found.max() < groups else None


def _split(packed: NDArray[Any], bits: int) -> Array:
    """Numbers without a sign, several in each 32 bits of a row, the lowest first."""
    words = packed.astype(np.int64) & 0xFFFFFFFF
    shifts = np.arange(0, 32, bits)
    parts = (words[:, :, None] >> shifts) & ((1 << bits) - 1)
    return parts.reshape(len(packed), -1).astype(np.float32)


def _grouped(
    numbers: Array,
    scale: Array,
    zero: Array = np.zeros(1, np.float32),  # noqa: B008 - not changed
) -> Array:
    """``(numbers - zero) * scale``, with one scale, one a row, or one for each group in a row."""
    if not numbers.size:
        return numbers
    rows = len(numbers) if numbers.ndim else 1
    flat = numbers.reshape(rows, -1)
    try:
        scales, zeros = (_spread(part, flat) for part in (scale, zero))
    except ValueError:
        raise SuspectFileError(
            f"{scale.size:,} scales for numbers of shape {numbers.shape}"
        ) from None
    with np.errstate(all="ignore"):
        return np.asarray(((flat - zeros) * scales).reshape(numbers.shape), np.float32)


def _spread(part: Array, flat: Array) -> Array:
    """Scales repeated over the values of a row that share them."""
    if part.size == 1:
        return part.reshape(1, 1)
    groups = part.reshape(len(flat), -1)
    if not groups.size or flat.shape[1] % groups.shape[1]:
        raise ValueError
    return np.repeat(groups, flat.shape[1] // groups.shape[1], axis=1)
