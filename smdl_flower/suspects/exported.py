"""``torch.export`` archives (``.pt2``): JSON that says which entry holds which tensor's bytes.

``torch.export.load`` is not an option: where the JSON says ``use_pickle`` it unpickles without
limits, so that a crafted file runs code (tried with torch 2.14). Such weights are refused.
"""

import json
from typing import Any

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects.archive import Archive, open_archive
from smdl_flower.suspects.tensors import StoredTensor, stored
from smdl_flower.suspects.torch_files import Found, read_archive

WEIGHTS, CONSTANTS = "data/weights/", "data/constants/"
OLD_STATE = "serialized_state_dict.pt"
_CONFIG_BYTES = 32 << 20
_TYPES = {  # torch/_export/serde/schema.py, ScalarType
    **{1: "U8", 2: "I8", 3: "I16", 4: "I32", 5: "I64", 6: "F16", 7: "F32", 8: "F64", 12: "BOOL"},
    **{13: "BF16", 28: "U16", 29: "F8_E4M3", 30: "F8_E5M2", 34: "U32", 35: "U64"},
}
_STRIDED = 7


def read(archive: Archive, root: str) -> Found:
    """Return the weights of an exported program, and the tensors among its constants.

    Args:
        archive: The file.
        root: The name that all entries begin with, up to and with the slash.

    Raises:
        SuspectFileError: Damaged, pickled weights, or a tensor claims more than there is.
    """
    models: dict[str, dict[str, Any]] = {}
    for folder, ending in (
        (WEIGHTS, "_weights_config.json"),
        (CONSTANTS, "_constants_config.json"),
    ):
        for name in archive.entries:
            model = name.removeprefix(root + folder).removesuffix(ending)
            if name == f"{root}{folder}{model}{ending}":
                tensors = _listed(archive, root + folder, name)
                models.setdefault(model, {}).update(tensors)
    return Found(models)


def read_old(archive: Archive, root: str) -> Found:
    """Return the weights of a program exported by PyTorch before 2.8: an archive in the archive."""
    inner = open_archive(archive.read(root + OLD_STATE))
    top = next(iter(inner.entries), "").partition("/")[0]
    return read_archive(inner, f"{top}/")


def _listed(archive: Archive, folder: str, name: str) -> dict[str, StoredTensor]:
    try:
        document = json.loads(bytes(archive.read(name, _CONFIG_BYTES)))
    except (ValueError, RecursionError):
        raise SuspectFileError("a damaged archive: the list of weights is not JSON") from None
    config = document.get("config") if isinstance(document, dict) else None
    if not isinstance(config, dict):
        raise SuspectFileError("a damaged archive: no list of weights")
    tensors = {}
    for tensor, entry in config.items():
        meta = entry.get("tensor_meta") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise SuspectFileError(
                f"weight {tensor[:80]!r} is pickled, which torch.export.load would execute"
            )
        if isinstance(meta, dict):  # else a constant that is no tensor
            tensors[tensor] = _tensor(archive.read(folder + str(entry.get("path_name"))), meta)
    return tensors


def _tensor(data: memoryview, meta: dict[str, Any]) -> StoredTensor:
    dtype = meta.get("dtype")
    if type(dtype) is not int or dtype not in _TYPES or meta.get("layout") != _STRIDED:
        raise SuspectFileError("a tensor of a type or layout that cannot be examined")
    shape, strides = _integers(meta.get("sizes")), _integers(meta.get("strides"))
    (offset,) = _integers([meta.get("storage_offset")])
    return stored(data, _TYPES[dtype], shape, strides, offset=offset)


def _integers(entries: Any) -> list[int]:
    fine = isinstance(entries, list) and all(isinstance(e, dict) for e in entries)
    numbers: list[Any] = [e.get("as_int") for e in entries] if fine else [None]
    if not all(type(n) is int for n in numbers):
        raise SuspectFileError("a tensor whose sizes are no numbers")
    return numbers
