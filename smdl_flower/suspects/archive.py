"""Zip archives as PyTorch writes them: entries by name, as views of the file.

Only the central directory counts. Sizes are compared with the file before anything is inflated,
nothing is unpacked to disk, names are looked up and never used as paths; yet a name that would
leave a directory, a name twice or an encrypted entry is refused, since no honest writer makes one.
Format: PKWARE APPNOTE 6.3.
"""

import struct
import zlib
from dataclasses import dataclass, field

from smdl_flower.errors import SuspectFileError

MAGIC = b"PK\x03\x04"
ENTRIES = 100_000
_INFLATION = 200  # times its stored size; weights of which 99 % are zero stay below
_ALWAYS_FINE = 1 << 20
_INFLATED = 8 << 30
_END, _END_SIZE = b"PK\x05\x06", 22
_END64, _LOCATOR = b"PK\x06\x06", b"PK\x06\x07"
_STORED, _DEFLATED = 0, 8
_ALL_ONES = 0xFFFFFFFF


@dataclass(frozen=True)
class _Entry:
    method: int
    stored: int
    size: int
    at: int


@dataclass(frozen=True)
class Archive:
    """A zip archive. Made by :func:`open_archive`.

    Attributes:
        entries: By name, in the order of the archive.
    """

    _data: memoryview = field(repr=False)
    entries: dict[str, _Entry] = field(repr=False)

    def read(self, name: str, most: int = _INFLATED) -> memoryview:
        """Return the content of an entry.

        Args:
            name: Of the entry.
            most: Bytes that it may have.

        Raises:
            SuspectFileError: There is none, or it is larger, damaged or inflates too far.
        """
        if name not in self.entries:
            raise SuspectFileError(f"an archive without {name[:80]!r}")
        entry = self.entries[name]
        if entry.size > most:
            raise SuspectFileError(f"{name[:80]!r} claims {entry.size:,} bytes, at most {most:,}")
        head = self._data[entry.at : entry.at + 30]
        if len(head) < 30 or bytes(head[:4]) != MAGIC:
            raise SuspectFileError(f"a damaged archive: {name[:80]!r} is not where it should be")
        start = entry.at + 30 + sum(struct.unpack("<HH", head[26:30]))
        stored = self._data[start : start + entry.stored]
        if len(stored) < entry.stored:
            raise SuspectFileError(f"a truncated archive: {name[:80]!r} is not all there")
        return stored if entry.method == _STORED else _inflated(name, entry, stored)


def open_archive(data: memoryview) -> Archive:
    """Return the archive that the bytes are.

    Raises:
        SuspectFileError: No archive, a truncated or damaged one, or one that claims too much.
    """
    count, size, start = _directory(data)
    if count > ENTRIES or size > ENTRIES * 256 or start + size > len(data):
        raise SuspectFileError(f"a damaged archive ({count:,} entries in {size:,} bytes)")
    entries: dict[str, _Entry] = {}
    at = start
    for _ in range(count):
        name, entry, at = _entry(data[: start + size], at)
        if name in entries:
            raise SuspectFileError(f"an archive with {name[:80]!r} twice")
        entries[name] = entry
    if sum(e.size for e in entries.values()) > _INFLATED:
        raise SuspectFileError(f"an archive that claims more than {_INFLATED:,} bytes")
    return Archive(data, entries)


def _directory(data: memoryview) -> tuple[int, int, int]:
    """Number of entries, size and position of the central directory."""
    tail = bytes(data[-(_END_SIZE + 65535) :])
    at = tail.rfind(_END)
    while at >= 0 and tail[at + 20 : at + 22] != _comment(tail, at):
        at = tail.rfind(_END, 0, at)  # that was in the comment
    if at < 0:
        raise SuspectFileError("a truncated archive: it has no directory at its end")
    count, size, start = struct.unpack("<HII", tail[at + 10 : at + 20])
    locator = tail[at - 20 : at] if at >= 20 else b""
    if locator.startswith(_LOCATOR):
        (end,) = struct.unpack("<Q", locator[8:16])
        record = bytes(data[end : end + 56])
        if len(record) < 56 or not record.startswith(_END64):
            raise SuspectFileError("a damaged archive: its directory is not where it should be")
        count, size, start = struct.unpack("<QQQ", record[32:56])
    return count, size, start


def _comment(tail: bytes, at: int) -> bytes:
    """The length of what follows an end of the directory, as that must say."""
    return max(len(tail) - at - _END_SIZE, 0).to_bytes(2, "little")


def _entry(data: memoryview, at: int) -> tuple[str, _Entry, int]:
    """An entry of the directory, with its name, and the position behind it."""
    head = bytes(data[at : at + 46])
    if len(head) < 46 or not head.startswith(b"PK\x01\x02"):
        raise SuspectFileError("a damaged archive: its directory does not hold what it claims")
    flags, method = struct.unpack("<HH", head[8:12])
    stored, size, named, extra, comment = struct.unpack("<IIHHH", head[20:34])
    (position,) = struct.unpack("<I", head[42:46])
    name = _checked_name(bytes(data[at + 46 : at + 46 + named]))
    if _ALL_ONES in (stored, size, position):
        fields = bytes(data[at + 46 + named : at + 46 + named + extra])
        size, stored, position = _long(fields, size, stored, position)
    if flags & 1 or method not in (_STORED, _DEFLATED) or (method == _STORED and stored != size):
        raise SuspectFileError(
            f"an archive with {name[:80]!r} encrypted or packed in a way unknown"
        )
    return name, _Entry(method, stored, size, position), at + 46 + named + extra + comment


def _long(fields: bytes, *values: int) -> list[int]:
    """Sizes and position of an entry, read from its extra fields where they are too large."""
    at = 0
    while at + 4 <= len(fields):
        kind, length = struct.unpack("<HH", fields[at : at + 4])
        if kind == 1:
            numbers = [n for (n,) in struct.iter_unpack("<Q", fields[at + 4 :][: length // 8 * 8])]
            needed = sum(v == _ALL_ONES for v in values)
            if len(numbers) >= needed:
                found = iter(numbers)
                return [next(found) if v == _ALL_ONES else v for v in values]
        at += 4 + length
    raise SuspectFileError("a damaged archive: an entry without its size")


def _checked_name(raw: bytes) -> str:
    name = raw.decode("utf-8", "replace")
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or ".." in parts or parts[0] == "":
        raise SuspectFileError(
            f"an archive with the name {name[:80]!r}, which leaves its directory"
        )
    return name


def _inflated(name: str, entry: _Entry, stored: memoryview) -> memoryview:
    if entry.size > max(_ALWAYS_FINE, _INFLATION * entry.stored):
        raise SuspectFileError(
            f"{name[:80]!r} claims to inflate {entry.stored:,} bytes to {entry.size:,}"
        )
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = machine.decompress(stored, entry.size + 1) if entry.size else b""
    except zlib.error:
        raise SuspectFileError(f"{name[:80]!r} cannot be inflated") from None
    if len(content) != entry.size:
        raise SuspectFileError(f"{name[:80]!r} is not of the size that the archive claims")
    return memoryview(content)
