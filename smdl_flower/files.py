"""Write files so that a crash leaves the old file, the new file or none, never half of one."""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from smdl_flower.errors import OutputExistsError

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
_DRAFT = ".tmp"


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
    with writing(path, mode=mode, replace=replace) as stream:
        stream.write(content)


@contextlib.contextmanager
def writing(path: Path, *, mode: int = PRIVATE_FILE, replace: bool = True) -> Iterator[BinaryIO]:
    """As :func:`write`, for what comes in pieces; an error in the block leaves no file."""
    make_private_directory(path.parent)
    temporary = _draft(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            move(temporary, path)
        else:
            move_new(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Any, *, mode: int = PRIVATE_FILE) -> None:
    """Write a JSON document the way :func:`write` writes bytes."""
    write(path, (json.dumps(document, indent=2, allow_nan=False) + "\n").encode(), mode=mode)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a hidden folder to be filled, which becomes ``path`` at the end: whole, or not at all.

    Raises:
        OutputExistsError: Something is there, and not just an empty folder; nothing was changed.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> with new_folder(place / "evidence") as draft:
        ...     write(draft / "verdict", b"...")
        >>> [p.name for p in place.iterdir()]
        ['evidence']
    """
    path = path.resolve()  # "." has no name
    require_vacant(path)
    draft = _draft(path)
    make_private_directory(draft)
    try:
        yield draft
        try:
            move(draft, path)
        except OSError:  # another process was here first
            require_vacant(path)
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextlib.contextmanager
def locked(directory: Path, drafts_of: Iterable[str] = ()) -> Iterator[None]:
    """Wait until no other process is in such a block for a directory, which is created if missing.

    Args:
        directory: Which one.
        drafts_of: Names that only such blocks write there: drafts of them are a killed process's,
            and are removed.
    """
    make_private_directory(directory)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # freed when closed, also by a crash
            for name in drafts_of:
                for draft in directory.glob(f".{name}.*{_DRAFT}"):
                    shutil.rmtree(draft) if draft.is_dir() else draft.unlink()
        yield
    finally:
        os.close(descriptor)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a private file, which is created if missing."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE)
    with os.fdopen(descriptor, "ab") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    if is_new:
        _sync_directory(path.parent)


def move(source: Path, target: Path) -> None:
    """Move a file over what may be there, or a folder where nothing or an empty one is."""
    source.replace(target)
    _sync_directory(target.parent)


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
    _sync_directory(target.parent)


def make_private_directory(path: Path) -> None:
    """Create a directory, and its missing parents, that only this user can enter."""
    if not path.is_dir():
        make_private_directory(path.parent)  # mkdir(parents=True) would leave these open to others
        path.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
        _sync_directory(path.parent)  # else what is synced in it could vanish with it


def refuse_to_overwrite(path: Path) -> None:
    """Raise if something is already at ``path``: results of others are never overwritten.

    Raises:
        OutputExistsError: It is there.
    """
    if path.exists() or path.is_symlink():
        raise OutputExistsError(f"{path} already exists; choose another name or remove it first")


def require_vacant(path: Path) -> None:
    """Raise unless ``path`` is free for a new folder; an empty folder may be there.

    Raises:
        OutputExistsError: It is not.
    """
    if path.is_symlink() or not path.is_dir() or any(path.iterdir()):
        refuse_to_overwrite(path)


def is_draft(path: Path) -> bool:
    """Whether a name is that of something unfinished, which only a crash leaves behind."""
    return path.name.startswith(".") and path.suffix == _DRAFT


def _draft(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}{_DRAFT}")


def _sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a directory be opened
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
