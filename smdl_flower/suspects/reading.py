"""Read a suspect: a file or folder of any common format, which may be hostile.

Plain safetensors are read as :func:`smdl_flower.weights.read` reads any model file. Everything else
is copied into a private directory and converted by a child process without secrets, whose output
passes the same checks again: what a suspect could break is a process that knows nothing.
"""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import smdl_flower
from smdl_flower import weights
from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects import child, folder, safetensors_file
from smdl_flower.weights import Limits, Weights

_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from smdl_flower.suspects.child import main; main()"
)
_WAIT = 120  # seconds on top of the processor time: other processes may be busy
_REASON = 2000


@dataclass(frozen=True)
class SuspectModel:
    """A suspect as read.

    Attributes:
        weights: Tensor name -> float32 array, all finite.
        kind: Its format.
        sha256: Digest of the file, or of a folder's files (docs/formats.md).
        remarks: What a reader of the verdict should know.
    """

    weights: Weights = field(repr=False)
    kind: str
    sha256: str
    remarks: tuple[str, ...] = ()


def read(path: Path, limits: Limits | None = None) -> SuspectModel:
    """Return the weights of a suspect.

    Raises:
        MissingFileError: There is no such file or folder.
        SuspectFileError: Unsafe, damaged or of an unknown format.

    Example:
        >>> import numpy as np
        >>> path = Path(tempfile.mkdtemp()) / "model.pt"
        >>> weights.write(path, {"w": np.ones(2, np.float32)})
        >>> read(path).kind  # by content: the name says nothing
        'safetensors'
    """
    limits = limits or Limits()
    if path.is_dir() and not path.is_symlink():
        parts = folder.read(path, limits)
        kind, sha256 = "Hugging Face folder", folder.digest(parts)
        contents = parts.models
    else:
        contents = {str(path): weights.read_bytes(path, limits)}
        kind, sha256 = "", hashlib.sha256(contents[str(path)]).hexdigest()
    model = _plain(contents, limits) or _converted(str(path), list(contents.values()), limits)
    if kind:
        kind = f"{kind} ({model.kind})"
    return SuspectModel(model.weights, kind or model.kind, sha256, model.remarks)


def _plain(contents: dict[str, bytes], limits: Limits) -> SuspectModel | None:
    """Files of safetensors with nothing but floating-point numbers in them."""
    views = [memoryview(content) for content in contents.values()]
    if not all(safetensors_file.is_one(v) and safetensors_file.is_plain(v, limits) for v in views):
        return None
    merged: Weights = {}
    for source, content in contents.items():
        for name, array in weights.parse(content, source, limits).weights.items():
            if name in merged:
                raise SuspectFileError(f"{source}: tensor {name[:80]!r} is in another file as well")
            merged[name] = array
    return SuspectModel(merged, "safetensors", "")


def _converted(source: str, contents: Sequence[bytes], limits: Limits) -> SuspectModel:
    with tempfile.TemporaryDirectory(prefix="smdl-suspect-") as name:  # of mode 0700
        directory = Path(name)
        for i, content in enumerate(contents):
            (directory / str(i)).write_bytes(content)
        _run(source, directory, child.seconds(sum(map(len, contents))))
        output = directory / child.OUTPUT
        try:
            file = weights.read(output, limits)
        except SuspectFileError as error:
            said = str(error).removeprefix(f"{output}: ")
            raise SuspectFileError(f"{source}: {said}") from None
    kind, remarks = (file.metadata.get(key, "") for key in ("kind", "remarks"))
    lines = (_printable(line[:_REASON]) for line in remarks.splitlines())
    return SuspectModel(file.weights, _printable(kind[:_REASON]), "", tuple(lines))


def _run(source: str, directory: Path, seconds: int) -> None:
    """Run the child in a directory.

    Raises:
        SuspectFileError: It refused the suspect, or was stopped by a limit.
        RuntimeError: It crashed, which is our error and no verdict.
    """
    package = str(Path(smdl_flower.__file__).parents[1])
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, with code of ours
            [sys.executable, "-I", "-c", _START, package],
            cwd=directory,
            env={"OPENBLAS_NUM_THREADS": "1"},  # nothing of the owner's: no paths, no secrets
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds + _WAIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SuspectFileError(f"{source}: reading it took too long") from None
    refused = directory / child.REFUSED
    if done.returncode == 3 and refused.is_file():
        reason = weights.read_bytes(refused, Limits(file_bytes=4 * _REASON))  # through no link
        raise SuspectFileError(f"{source}: {_printable(reason.decode(errors='replace'))}")
    if done.returncode < 0:
        raise SuspectFileError(f"{source}: reading it took more time or memory than it may")
    if done.returncode:
        raise RuntimeError(f"converting a suspect ended with code {done.returncode}")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
