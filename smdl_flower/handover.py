"""The base model on its way from the server to an issuer elsewhere: only the owner opens it.

The server holds neither master key nor registry; it has the public half of a key that is derived
from the master key. The model's metadata is inside the seal: the file shows its size, and for whom
it is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smdl_flower import files, sealing, weights
from smdl_flower.errors import HomeError, SealError
from smdl_flower.sealing import SealingKey
from smdl_flower.weights import ModelFile

FORMAT = "smdl-sealed/1"

_MAGIC = f"{FORMAT}\n".encode()
_CONTEXT = (FORMAT, "base model")


def write(
    path: Path,
    model: Mapping[str, NDArray[np.float32]],
    metadata: Mapping[str, str],
    recipient: bytes,
) -> None:
    """Write a sealed model, private, whole or not at all; in clear it never reaches the disk.

    Args:
        path: Of the new file.
        model: The base model.
        metadata: Of its file.
        recipient: The owner's public sealing key.

    Raises:
        OutputExistsError: The file exists.
        CapacityError: The model is too large.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "global.sealed"
        >>> key = SealingKey.generate()
        >>> write(path, {"w": np.ones((1, 2), np.float32)}, {"model": "example"}, key.public)
        >>> read(path, [key]).weights["w"].tolist()
        [[1.0, 1.0]]
    """
    sealed = sealing.seal(weights.to_bytes(model, metadata), recipient, _CONTEXT)
    files.write(path, _MAGIC + recipient + sealed, replace=False)


def read(path: Path, keys: Sequence[SealingKey]) -> ModelFile:
    """Read a model file that may be hostile: sealed for this owner, or not sealed at all.

    Args:
        path: Of the file.
        keys: The owner's, the newest last: a server may not know yet that there is a newer one.

    Raises:
        HomeError: It is sealed for another owner.
        SealError: It was altered or cut off.
        SuspectFileError: As for :func:`smdl_flower.weights.read`, also of what was sealed: whoever
            has the public key can seal.
    """
    content = weights.read_bytes(path)
    if not content.startswith(_MAGIC):
        return weights.parse(content, str(path))
    start = len(_MAGIC) + sealing.KEY_BYTES
    recipient = content[len(_MAGIC) : start]
    if len(content) < start + sealing.OVERHEAD:
        raise SealError(f"{path}: cut off; copy it from the server once more")
    key = next((key for key in keys if key.public == recipient), None)
    if key is None:
        raise HomeError(
            f"{path}: sealed for {sealing.to_text(recipient)}, not for this home "
            f"({sealing.to_text(keys[-1].public)}); open it with the other (--home)"
        )
    try:
        clear = key.open(content[start:], _CONTEXT)
    except SealError:
        raise SealError(f"{path}: altered or cut off; copy it from the server once more") from None
    return weights.parse(clear, str(path))
