"""A home in one file that a passphrase opens, and back.

The registry is taken first, from whatever database it is in, in one transaction. What it refers to
was written before it was recorded and does not change, so the file is consistent while others go on
issuing. Restoring checks all of it (:mod:`smdl_flower.checking`) before the new home appears.

An older backup is as authentic as a new one. Whoever went on from it would issue without knowing
of copies that are out, and publish a second chain of commitments. So a restored home only traces,
unless the owner names the newest commitment that it published and the backup has it.
"""

import datetime
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smdl_flower import checking, clock, commitments, files, home_file
from smdl_flower.checking import Findings
from smdl_flower.database import Row
from smdl_flower.errors import IntegrityError
from smdl_flower.evidence import versions
from smdl_flower.home import DATABASE_FILE, HEAD_FILE, KEY_FILE, OwnerHome
from smdl_flower.home_file import Settings
from smdl_flower.passphrase_file import Reader, Writer

FORMAT = "smdl-backup/1"
_MAGIC = f"{FORMAT}\n".encode()
_ROWS = "registry.jsonl"
_LARGEST_INDEX = 1 << 30  # bytes; 4 million files
_LENGTH = 8  # bytes of a number
# Nothing else is ever written, whatever a file asks for.
_PATH = re.compile(
    r"master\.key|registry\.(jsonl|head)|commitments/\d{6}\.(json|tsr)"
    r"|vault/[0-9a-f]{16}/(model\.json|(base|profile|taught)\.safetensors|queries-\d{1,6}\.bin)"
    r"|vault/broadcasts/[0-9a-f]{64}\.safetensors|asked/[0-9a-f]{16}-\d{1,6}-[0-9a-f]{16}\.jsonl"
)


@dataclass(frozen=True)
class Backup:
    """What was written.

    Attributes:
        created_at: UTC, ISO 8601.
        entries: Of the registry.
        files: How many.
        newest_commitment: Digest; empty if nothing was committed to.
    """

    created_at: str
    entries: int
    files: int
    newest_commitment: str


def back_up(home: Path, passphrase: str | None, out: Path, words: str) -> Backup:
    """Write a home's backup, private, whole or not at all.

    Runs (``HOME/runs``) and copies are not in it, and of the registry's URL nothing: that may hold
    a password.

    Args:
        home: Of the owner; may be in use.
        passphrase: That opens it; the keys stay sealed under it in the backup as well.
        out: The new file.
        words: Passphrase of the backup.

    Raises:
        OutputExistsError: The file exists.
        IntegrityError: The home is not as it was written: the backups before are better.
        ConfigError: ``words`` is empty.
    """
    OwnerHome.require(home)
    files.refuse_to_overwrite(out)
    with files.locked(home), files.writing(out, replace=False) as stream:
        owner = OwnerHome.open(home, passphrase)
        export = owner.registry.export()
        chain = commitments.of_home(owner)
        parts = list(_parts(owner, [dict(row._asdict()) for row in export.rows], export.head))
        created = clock.now()
        index = {
            "format": FORMAT,
            "created_at": created,
            "versions": versions(),
            "files": [part.index() for part in parts],
        }
        content = json.dumps(index).encode()
        writer = Writer(stream, _MAGIC, words)
        writer.write(len(content).to_bytes(_LENGTH, "big") + content)
        for part in parts:
            writer.write(part.content())
        writer.close()
    newest = chain[-1].digest if chain else ""
    return Backup(created, len(export.rows), len(parts), newest)


@dataclass(frozen=True)
class Restored:
    """A home that was restored.

    Attributes:
        home: Open.
        created_at: When the backup was made.
        findings: What it holds.
    """

    home: OwnerHome
    created_at: str
    findings: Findings


def restore(
    file: Path,
    target: Path,
    words: str,
    *,
    passphrase: Callable[[Path], str | None] = lambda _: None,
    registry_url: str | None = None,
    newest: str | None = None,
) -> Restored:
    """Make a home of a backup, checked as a whole before it appears.

    Args:
        file: The backup; may be hostile.
        target: The new home; may exist if it is empty.
        words: Passphrase of the backup.
        passphrase: Returns what opens the keys of the home that is there.
        registry_url: Database of the registry; default is SQLite in the home. If it holds a log
            already, that must be this one, or go on from it.
        newest: Digest of the newest commitment that the owner published. Without it the home may
            only trace.

    Raises:
        OutputExistsError: The target is there and not empty.
        HomeError: A passphrase is missing or wrong.
        IntegrityError: The backup was altered or cut off, something in it is not as it was
            written, or it is older than ``newest``.
        ConfigError: The database cannot be reached.
    """
    with files.new_folder(target) as draft:
        created, rows = _unpack(file, draft, words)
        why = "" if newest else _unproven(created)
        opener = passphrase(draft)
        files.write(draft / DATABASE_FILE, b"")
        findings = checking.check(_filled(draft, opener, Settings(None, why), rows), newest)
        if registry_url is not None:  # only now that the backup is known to be whole
            settings = Settings(registry_url, why)
            findings = checking.check(_filled(draft, opener, settings, rows), newest)
            (draft / DATABASE_FILE).unlink()
    return Restored(OwnerHome.open(target, opener), created, findings)


def _unproven(created: str) -> str:
    return (
        f"restored from a backup of {created} and nobody said that it is the newest; what was "
        "issued since is not known here. It traces files. To issue, restore with --newest"
    )


def _filled(draft: Path, passphrase: str | None, settings: Settings, rows: list[Row]) -> OwnerHome:
    home_file.write(draft, settings)
    home = OwnerHome.open(draft, passphrase)
    home.registry.fill(rows)
    return home


@dataclass(frozen=True)
class _Part:
    """A file of a backup; what may still change is in memory, the rest is read when it is due."""

    path: str
    size: int
    sha256: str
    source: bytes | Path

    @classmethod
    def of(cls, path: str, source: bytes | Path) -> "_Part":
        content = source if isinstance(source, bytes) else source.read_bytes()
        return cls(path, len(content), hashlib.sha256(content).hexdigest(), source)

    def index(self) -> dict[str, Any]:
        return {"path": self.path, "size": self.size, "sha256": self.sha256}

    def content(self) -> bytes:
        content = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise IntegrityError(f"{self.path}: was changed meanwhile; try again")
        return content


def _parts(home: OwnerHome, rows: list[dict[str, Any]], head: dict[str, Any]) -> Iterator[_Part]:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    yield _Part.of(_ROWS, lines.encode())
    yield _Part.of(HEAD_FILE, (json.dumps(head, indent=2) + "\n").encode())
    yield _Part.of(KEY_FILE, (home.path / KEY_FILE).read_bytes())
    for path in sorted(commitments.directory(home).glob("[0-9]*")):
        yield _Part.of(f"commitments/{path.name}", path.read_bytes())
    vault = home.path / "vault"
    for model_id in home.registry.models():
        for path in sorted((vault / model_id).iterdir()):
            yield _Part.of(f"vault/{model_id}/{path.name}", path)
    for digest in sorted({record.model_sha256 for record in home.registry.broadcasts()}):
        path = vault / "broadcasts" / f"{digest}.safetensors"
        yield _Part.of(f"vault/broadcasts/{path.name}", path)
    for path in sorted((home.path / "asked").glob("*.jsonl")):
        yield _Part.of(f"asked/{path.name}", path.read_bytes())


def _unpack(file: Path, draft: Path, words: str) -> tuple[str, list[Row]]:
    """Write a backup's files into a new folder; return when it was made, and the registry."""
    with file.open("rb") as stream:
        reader = Reader(stream, file, _MAGIC, words)
        size = int.from_bytes(reader.read(_LENGTH), "big")
        if size > min(reader.left, _LARGEST_INDEX):
            raise _damaged(file)
        index = reader.read(size)
        created, parts = _index(file, index, reader.left)
        rows = b""
        for part in parts:
            content = reader.read(part.size)
            if hashlib.sha256(content).hexdigest() != part.sha256:
                raise _damaged(file)
            if part.path == _ROWS:
                rows = content
            else:
                files.write(draft / part.path, content, replace=False)
    return created, _rows(file, rows)


def _index(file: Path, content: bytes, left: int) -> tuple[str, list[_Part]]:
    try:
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ValueError("format")
        created = datetime.datetime.fromisoformat(document["created_at"]).isoformat()
        parts = [_Part(e["path"], e["size"], e["sha256"], b"") for e in document["files"]]
        if not all(type(p.size) is int and p.size >= 0 for p in parts):
            raise ValueError("size")
        if not all(_PATH.fullmatch(p.path) for p in parts):
            raise ValueError("path")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(file) from None
    # Nothing is compressed: all files together are as long as the rest, and no path comes twice.
    if sum(p.size for p in parts) != left or len({p.path for p in parts}) != len(parts):
        raise _damaged(file)
    return created, parts


def _rows(file: Path, content: bytes) -> list[Row]:
    try:
        rows = [Row(**json.loads(line)) for line in content.splitlines()]
        if any([type(value) for value in row] != [int, str, str, str] for row in rows):
            raise TypeError("values")
    except (ValueError, TypeError, RecursionError):
        raise _damaged(file) from None
    return rows


def _damaged(file: Path) -> IntegrityError:
    return IntegrityError(f"{file}: not a whole {FORMAT} file; use another backup")
