"""Files of ``torch.save`` and TorchScript: a pickle that refers to storages beside it.

Both are zip archives; before PyTorch 1.6 a file was a row of pickles with the storages behind them.
The pickle is read by :mod:`.unpickling`; the few names that make a tensor are known here.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects.archive import Archive
from smdl_flower.suspects.foreign import Foreign, Name
from smdl_flower.suspects.tensors import Affine, StoredTensor, item_bytes, stored
from smdl_flower.suspects.unpickling import Rules, Unpickled, unpickle

LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # 0x1950a86a20f9469cfc6c, pickled
_STORAGES = {
    **{"Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64"},
    **{"Int": "I32", "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL"},
    **{"QInt8": "I8", "QUInt8": "U8", "QInt32": "I32", "QUInt4x2": "U4"},
}
_DTYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "uint16": "U16", "uint32": "U32"},
    **{"uint64": "U64", "int8": "I8", "uint8": "U8", "int64": "I64", "int32": "I32"},
}
_MOST_KEYS = 100_000


@dataclass(frozen=True)
class Found:
    """What a file holds.

    Attributes:
        tree: Tensors in dicts, lists, tuples and :class:`~.foreign.Foreign` objects.
        called: What ordinary loading would have called besides.
    """

    tree: Any
    called: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Storage:
    data: memoryview = field(repr=False)
    dtype: str | None  # None: a tensor says what the bytes are
    order: str


def read_archive(archive: Archive, root: str) -> Found:
    """Return what an archive of ``torch.save`` holds.

    Args:
        archive: The file.
        root: The name that all entries begin with, up to and with the slash.

    Raises:
        SuspectFileError: Damaged, or a tensor claims more than there is.
    """
    result = _unpickled(archive, root, "data")
    return Found(result.value, result.called)


def read_script(archive: Archive, root: str) -> Found:
    """Return the attributes of a TorchScript module, and the constants that ``freeze`` makes.

    Raises:
        SuspectFileError: As :func:`read_archive`.
    """
    module = _unpickled(archive, root, "data")
    constants = _unpickled(archive, root, "constants")
    tree = Foreign("TorchScript", {"": module.value, "constants": constants.value})
    return Found(tree, tuple(n for n in module.called if not n.startswith("__torch__.")))


def read_legacy(data: memoryview) -> Found:
    """Return what a file of PyTorch before 1.6 holds.

    Raises:
        SuspectFileError: As :func:`read_archive`.
    """
    at = len(LEGACY_MAGIC)
    protocol = unpickle(data, _NOTHING, at)
    system = unpickle(data, _NOTHING, protocol.end)
    big = isinstance(system.value, dict) and system.value.get("little_endian") is False
    named: dict[str, str | None] = {}
    first = unpickle(data, _rules(lambda reference: _note(named, reference)), system.end)
    keys = unpickle(data, _NOTHING, first.end)
    storages = _laid_out(data, keys, named, ">" if big else "<")
    again = unpickle(data, _rules(lambda reference: _known(storages, reference)), system.end)
    return Found(again.value, again.called)


def read_bare(data: memoryview) -> Found:
    """Return what a pickle without storages holds; tensors need them, so that is none.

    Raises:
        SuspectFileError: A damaged pickle.
    """
    result = unpickle(data, _NOTHING)
    return Found(result.value, result.called)


def _unpickled(archive: Archive, root: str, folder: str) -> Unpickled:
    order = "<"
    if f"{root}byteorder" in archive.entries:
        order = ">" if bytes(archive.read(f"{root}byteorder", 16)) == b"big" else "<"
    read: dict[str, memoryview] = {}

    def persistent(reference: Any) -> _Storage:
        dtype, key = _reference(reference)
        if key not in read:  # inflated once, if it has to be
            read[key] = archive.read(f"{root}{folder}/{key}")
        return _Storage(read[key], dtype, order)

    return unpickle(archive.read(f"{root}{folder}.pkl"), _rules(persistent))


def _reference(reference: Any) -> tuple[str | None, str]:
    """Type and key of a storage that a pickle refers to."""
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise SuspectFileError("a pickle that refers to something that is no storage")
    kind, key = reference[1:3]
    if not isinstance(kind, Name) or not isinstance(key, str):
        raise SuspectFileError("a pickle that refers to something that is no storage")
    name = kind.text.removeprefix("torch.").removeprefix("cuda.")
    return _STORAGES.get(name.removesuffix("Storage")), key


def _note(named: dict[str, str | None], reference: Any) -> None:
    dtype, key = _reference(reference)
    named[key] = dtype
    if len(reference) > 5 and reference[5] is not None:
        raise SuspectFileError(
            "a storage that is a view of another; save the file with new PyTorch"
        )


def _known(storages: Mapping[str, _Storage], reference: Any) -> _Storage:
    return storages[_reference(reference)[1]]


def _laid_out(
    data: memoryview, keys: Unpickled, named: Mapping[str, str | None], order: str
) -> dict[str, _Storage]:
    """The storages that lie behind the pickles, each after its length in values."""
    if not isinstance(keys.value, list) or len(keys.value) > _MOST_KEYS:
        raise SuspectFileError("a damaged file: no list of storages")
    at, storages = keys.end, {}
    for key in keys.value:
        dtype = named.get(key) if isinstance(key, str) else None
        if dtype is None:
            raise SuspectFileError("a damaged file: storages are not as the pickle says")
        count = int.from_bytes(data[at : at + 8], "little")
        end = at + 8 + count * item_bytes(dtype)
        if end > len(data):
            raise SuspectFileError(f"truncated: a storage claims {count:,} values")
        storages[key] = _Storage(data[at + 8 : end], dtype, order)
        at = end
    if set(storages) != set(named):
        raise SuspectFileError("a damaged file: storages are not as the pickle says")
    return storages


# ------------------------------------------------------------------------ names that make a tensor


def _tensor(arguments: tuple[Any, ...]) -> StoredTensor | Foreign:
    if len(arguments) < 4:
        raise SuspectFileError("a tensor without sizes")
    storage, offset, shape, strides = arguments[:4]
    if storage is None:  # on the first reading of a legacy file
        return Foreign("a tensor that is read the second time")
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple | list):
        raise SuspectFileError("a tensor without storage or sizes")
    if not isinstance(strides, tuple | list):
        raise SuspectFileError("a tensor without strides")
    dtype = storage.dtype
    if dtype is None:
        said = arguments[6] if len(arguments) > 6 else None
        dtype = _DTYPES.get(said.text.removeprefix("torch.")) if isinstance(said, Name) else None
    if dtype is None:
        return Foreign("a tensor of complex numbers, or of another type that weights do not have")
    return stored(storage.data, dtype, shape, strides, offset=offset, order=storage.order)


def _quantised(arguments: tuple[Any, ...]) -> StoredTensor | Foreign:
    tensor = _tensor(arguments)
    how = arguments[4] if len(arguments) > 4 else None
    if isinstance(tensor, Foreign):
        return tensor
    if not isinstance(how, tuple | list) or len(how) not in (3, 4):
        raise SuspectFileError("a quantised tensor without scales")
    axis = how[3] if len(how) == 4 and type(how[3]) is int else None
    return tensor.meaning(Affine(_numbers(how[1]), _numbers(how[2]), axis))


def _numbers(value: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    if isinstance(value, StoredTensor):
        return value.values()
    if isinstance(value, int | float):
        with contextlib.suppress(OverflowError), np.errstate(all="ignore"):
            return np.array(value, dtype=np.float32)
    raise SuspectFileError("a quantised tensor with scales that are no numbers")


def _first(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments else None


def _typed(arguments: tuple[Any, ...]) -> Any:
    """A tensor of a subclass: made by a function of the list, then called something else."""
    function, _, inner = arguments[:3] if len(arguments) >= 3 else (None, None, None)
    rule = CALLS.get(function.text) if isinstance(function, Name) else None
    if rule is None or rule is _typed or not isinstance(inner, tuple):
        return Foreign("a tensor of a class of its own")
    return rule(inner)


def _dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
    fine = (p for p in pairs if isinstance(p, tuple | list) and len(p) == 2)
    return {key: value for key, value in fine if isinstance(key, str | int)}


CALLS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _dict,
    "torch.Size": _first,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _typed,
}


def _rules(persistent: Callable[[Any], Any]) -> Rules:
    return Rules(CALLS, persistent)


def _refused(_: Any) -> Any:
    raise SuspectFileError("a damaged file: a reference where none belongs")


_NOTHING = Rules({}, _refused)
