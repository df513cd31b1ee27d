"""The process that converts suspect files: limits first, then the files, then one file out.

Started by :mod:`.reading` in a private directory with the suspects in it, named ``0``, ``1`` ...,
with an empty environment and in Python's isolated mode. It writes ``weights.safetensors``, or
``refused`` with the reason, and is told nothing else: no path of the owner, no key, no base model.
"""

import contextlib
import json
import mmap
import os
import resource
import sys
from pathlib import Path

import numpy as np

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects.converting import Converted, convert

OUTPUT = Path("weights.safetensors")
REFUSED = Path("refused")
ROOM = 256 << 20  # bytes of weights that any file may become; larger ones 8 times their own size
_LARGEST = 8 << 30
_RUNTIME = 1 << 30  # address space of Python and numpy, with room
_SECONDS = 60
_BYTES_A_SECOND = 20 << 20


def seconds(total: int) -> int:
    """Return the processor time that files of so many bytes are given."""
    return _SECONDS + total // _BYTES_A_SECOND


def main() -> None:
    """Convert the files of the working directory."""
    names = sorted((n for n in os.listdir() if n.isdigit()), key=int)
    total = sum(Path(name).stat().st_size for name in names)
    most = min(_LARGEST, ROOM + 8 * total)
    _limit(total, most)
    try:
        converted = convert([_mapped(Path(name)) for name in names], most)
        _write(converted)
    except SuspectFileError as error:
        REFUSED.write_text(str(error)[:2000], "utf-8", "replace")
    except MemoryError:
        REFUSED.write_text("reading it takes more memory than a model of its size would")
    else:
        return
    sys.exit(3)


def _limit(total: int, most: int) -> None:
    limits = {
        resource.RLIMIT_AS: _RUNTIME + total + 3 * most,
        resource.RLIMIT_CPU: seconds(total),
        resource.RLIMIT_FSIZE: most + (64 << 20),
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for what, value in limits.items():
        with contextlib.suppress(ValueError):  # a lower limit is set already
            resource.setrlimit(what, (value, value))


def _mapped(path: Path) -> memoryview:
    if not path.stat().st_size:
        return memoryview(b"")
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _write(converted: Converted) -> None:
    """Write safetensors piece by piece: the library would hold all of it once more."""
    header: dict[str, object] = {
        "__metadata__": {"kind": converted.kind, "remarks": "\n".join(converted.remarks)}
    }
    at = 0
    for name, array in converted.weights.items():
        header[name] = {
            "dtype": "F32",
            "shape": array.shape,
            "data_offsets": [at, at + array.nbytes],
        }
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with OUTPUT.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in converted.weights.values():
            stream.write(np.asarray(array, "<f4", order="C").data)
