"""Content of suspect files -> float32 weights by name, whatever their format.

Run by :mod:`.child`. The format is told by content, not by the names of files. Whatever is wrong
ends in a :class:`~smdl_flower.errors.SuspectFileError` that begins with what the file is or has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects import exported, onnx_file, quantised, safetensors_file, torch_files
from smdl_flower.suspects.archive import MAGIC, Archive, open_archive
from smdl_flower.suspects.naming import Naming, Tensors
from smdl_flower.suspects.torch_files import Found
from smdl_flower.weights import Weights

EXPECTED = (
    "safetensors, PyTorch state dicts and checkpoints, TorchScript, torch.export, ONNX, or a "
    "folder with config.json and such files"
)
_PICKLES = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_NAMED = 3  # of the names that ordinary loading would call
_HARMLESS = ("torch.nn.modules.", "torch.jit._pickle.", "builtins.set", "__builtin__.set")


@dataclass(frozen=True)
class Converted:
    """What suspect files hold.

    Attributes:
        weights: float32 arrays by name; they may be NaN or infinite.
        kind: What the files are.
        remarks: What a reader of the verdict should know.
    """

    weights: Weights = field(repr=False)
    kind: str
    remarks: tuple[str, ...] = ()


def convert(contents: Sequence[memoryview], most: int) -> Converted:
    """Return what files hold that are one model together; usually it is one.

    Args:
        contents: Of the files.
        most: Bytes that all weights may have as float32.

    Raises:
        SuspectFileError: Unknown, unsafe, damaged, or larger than that.
    """
    tensors: Tensors = {}
    kinds: list[str] = []
    remarks: list[str] = []
    for content in contents:
        kind, found, said = _read(content)
        if twice := next((n for n in found if n in tensors), None):
            raise SuspectFileError(f"tensor {twice[:80]!r} is in two files of the folder")
        tensors.update(found)
        kinds.append(kind)
        remarks += said
    weights = quantised.weights(tensors, most)
    if not weights:
        raise SuspectFileError(f"{kinds[0]}: no tensor of floating-point or quantised numbers")
    kind = kinds[0] + (" (quantised)" if quantised.is_quantised(tensors) else "")
    return Converted(weights, kind, tuple(dict.fromkeys(remarks)))


def _read(content: memoryview) -> tuple[str, Tensors, list[str]]:
    """What a file is, the tensors in it, and remarks."""
    kind, read = _format(content)
    naming = Naming()
    called: tuple[str, ...] = ()
    try:
        found = read()
        called = tuple(name for name in found.called if not name.startswith(_HARMLESS))
        tensors = naming.tensors(found.tree)
    except SuspectFileError as error:
        raise SuspectFileError(f"{kind}: {error}{_would_call('; ', called)}") from None
    said = _would_call("", called)
    return kind, tensors, naming.remarks + ([said] if said else [])


def _would_call(before: str, called: Sequence[str]) -> str:
    names = ", ".join(repr(name[:60]) for name in called[:_NAMED])
    more = f" and {len(called) - _NAMED} others" if len(called) > _NAMED else ""
    return (
        f"{before}loading it with torch would call {names}{more}; here nothing was" if names else ""
    )


def _format(content: memoryview) -> tuple[str, Callable[[], Found]]:
    """What a file is by its content, and how it is read."""
    start = bytes(content[:16])
    if not start:
        raise SuspectFileError("an empty file")
    if start.startswith(MAGIC):
        return _archived(open_archive(content))
    if start.startswith(torch_files.LEGACY_MAGIC):
        return "PyTorch before 1.6", lambda: torch_files.read_legacy(content)
    if safetensors_file.is_one(content):
        return "safetensors", lambda: Found(safetensors_file.read(content))
    if start.startswith(_PICKLES):
        return "pickle", lambda: torch_files.read_bare(content)
    if onnx_file.is_one(content):
        return "ONNX", lambda: onnx_file.read(content)
    raise SuspectFileError(f"unknown, it begins with {start!r}; examined are {EXPECTED}")


def _archived(archive: Archive) -> tuple[str, Callable[[], Found]]:
    """Which of the formats that are zip archives it is. All entries are in one folder."""
    root = next(iter(archive.entries), "").partition("/")[0] + "/"
    has = {name.removeprefix(root) for name in archive.entries}
    if any(n.startswith((exported.WEIGHTS, "models/")) for n in has):
        return "torch.export", lambda: exported.read(archive, root)
    if exported.OLD_STATE in has:
        where = root if root + exported.OLD_STATE in archive.entries else ""
        return "torch.export before 2.8", lambda: exported.read_old(archive, where)
    if "constants.pkl" in has:
        return "TorchScript", lambda: torch_files.read_script(archive, root)
    if "data.pkl" in has:
        return "PyTorch", lambda: torch_files.read_archive(archive, root)
    raise SuspectFileError(f"an archive of something else; examined are {EXPECTED}")
