"""Write files so that a crash leaves the old file, the new file or none, never half of one."""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smdl_flower.errors import OutputExistsError

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700


def write(path: Path, content: bytes, *, mode: int = PRIVATE_FILE, replace: bool = True) -> None:
    """Write a file under a temporary name and move it into place.

    Args:
        path: Where it goes; its directory is created (mode 0700) if missing.
        content: All of it.
        mode: Permission bits of the new file.
        replace: Whether a file that is already there may be replaced.

    Raises:
        OutputExistsError: ``path`` exists and ``replace`` is false; nothing was changed.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "new" / "note.txt"
        >>> write(target, b"kept whole")
        >>> target.read_bytes(), oct(target.stat().st_mode & 0o777)
        (b'kept whole', '0o600')
    """
    make_private_directory(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            temporary.replace(path)
        else:
            move_new(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def write_json(path: Path, document: Any, *, mode: int = PRIVATE_FILE) -> None:
    """Write a JSON document the way :func:`write` writes bytes."""
    write(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode(), mode=mode)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a private file, which is created if missing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    with os.fdopen(descriptor, "ab") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def move_new(source: Path, target: Path) -> None:
    """Move a file to a name that must be free, on the same file system.

    Raises:
        OutputExistsError: The name is taken, also by someone who came just now.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        refuse_to_overwrite(target)
        raise
    source.unlink()


def make_private_directory(path: Path) -> None:
    """Create a directory, and its missing parents, that only this user can enter."""
    if not path.is_dir():
        make_private_directory(path.parent)  # mkdir(parents=True) would leave these open to others
        path.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)


def refuse_to_overwrite(path: Path) -> None:
    """Raise if something is already at ``path``: results of others are never overwritten.

    Raises:
        OutputExistsError: It is there.
    """
    if path.exists() or path.is_symlink():
        raise OutputExistsError(f"{path} already exists; choose another name or remove it first")


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Wait until nobody else works in this block on that directory; a crash frees it, too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a directory be opened
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
