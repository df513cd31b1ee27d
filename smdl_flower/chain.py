"""An append-only, authenticated log in a database: the mechanics of the registry.

Each entry carries an HMAC over itself and its predecessor's HMAC, under a key derived from the
master key. How many entries there are, and the newest HMAC, is kept in a head file beside the key,
authenticated too. So an entry that was changed, inserted, reordered or removed is noticed
before any verdict rests on it. (Restoring database *and* head file from an old backup is not;
publish commitments against that.)

An entry of kind ``rotation`` names a new master key; what follows is authenticated under that one.

Any SQLAlchemy URL works; SQLite is the default.
"""

import bisect
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import sqlalchemy as sql

from smdl_flower import files
from smdl_flower.database import TABLE, Database, Row, one_writer
from smdl_flower.errors import HomeError, IntegrityError
from smdl_flower.fingerprint.keys import OwnerKey

FORMAT = "smdl-registry/1"
ROTATION = "rotation"  # kind of an entry; its body names the new key by its commitment

_FIRST_MAC = bytes(32)

State = TypeVar("State")
Body = dict[str, Any]
Append = Callable[[str, Body], None]


@dataclass(frozen=True)
class Meaning(Generic[State]):
    """What entries mean.

    Attributes:
        empty: Makes the state of an empty log.
        apply: Takes an entry, kind and body, into a state.
    """

    empty: Callable[[], State]
    apply: Callable[[State, str, Body], None]


@dataclass(frozen=True)
class Export:
    """A whole log, and the head file that belongs to it.

    Attributes:
        rows: Number, kind, body and MAC of each entry.
        head: The document of the head file.
    """

    rows: list[Row]
    head: Body


class Chain(Generic[State]):
    """An open log, and what it says; every call first reads and checks what was added since.

    Args:
        url: Of the database.
        keys: Of the owner, the first one first.
        head: The head file.
        meaning: Of its entries.
        closed: Why nothing may be appended; empty if it may.

    Raises:
        ConfigError: The URL is none.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> at = f"sqlite:///{folder}/log.db", [OwnerKey(bytes(32))], folder / "log.head"
        >>> chain = Chain(*at, Meaning(list, lambda seen, kind, body: seen.append(kind)))
        >>> chain.create()
        >>> with chain.writing() as (seen, append):
        ...     append("note", {"text": "first"})
        >>> chain.read()
        ['note']
    """

    def __init__(
        self,
        url: str | sql.URL,
        keys: Sequence[OwnerKey],
        head: Path,
        meaning: Meaning[State],
        closed: str = "",
    ) -> None:
        self._database = Database(url)
        self._closed = closed
        self._keys = tuple(keys)
        self._head = head
        self._empty, self._apply = meaning.empty, meaning.apply
        self._forget()

    def create(self) -> None:
        """Create the empty log.

        Raises:
            ConfigError: The database already holds one, or cannot be reached.
        """
        self._database.create()
        self._write_head()

    def require_open(self) -> None:
        """Raise :class:`HomeError` if nothing may be appended."""
        if self._closed:
            raise HomeError(f"nothing can be recorded: {self._closed}")

    def export(self) -> Export:
        """Return the log as it is now, checked."""
        with self._forgetting(), self._database.connection() as connection:
            self._replay(connection)
            found = connection.execute(TABLE.select().order_by(TABLE.c.number))
            rows = [Row(*row) for row in found if row.number < self._entries]
            return Export(rows, self._head_document())

    def fill(self, rows: Sequence[Row]) -> None:
        """Write an exported log, whose head file is in place, into a database; all or nothing.

        If the database has a log already, that is kept: it must go on from the exported one.

        Raises:
            ConfigError: The database cannot be reached.
            IntegrityError: Either log is not authentic, or not the one that the head is about.
        """
        with self._forgetting(), self._database.connection() as connection:
            if not sql.inspect(connection).has_table(TABLE.name):
                TABLE.create(connection)
                if rows:
                    connection.execute(TABLE.insert(), [row._asdict() for row in rows])
            head = self._replay(connection)
            if head.entries != len(rows):
                raise IntegrityError(
                    f"registry: {len(rows)} entries, {head.entries} were written; restore it"
                )
        self._write_head()

    def read(self) -> State:
        """Return what the log says; not to be changed.

        Raises:
            IntegrityError: The log is not as it was written.
        """
        with self._forgetting(), self._database.connection() as connection:
            self._replay(connection)
        return self._state

    @contextmanager
    def writing(self) -> Iterator[tuple[State, Append]]:
        """One transaction: the checked state, and a function that appends an entry to it."""
        self.require_open()
        with self._forgetting(), self._database.connection() as connection:
            one_writer(connection)
            self._replay(connection)

            def append(kind: str, body: Body) -> None:
                text = json.dumps(body, sort_keys=True)
                mac = self._mac(kind, text)
                row = {"number": self._entries, "kind": kind, "body": text, "mac": mac.hex()}
                connection.execute(TABLE.insert().values(row))
                self._take(kind, body, mac)

            yield self._state, append
        # After the commit: a head that lags behind a complete log is accepted, the reverse is not.
        self._write_head()

    def _forget(self) -> None:
        """Know nothing of the log; the next call reads all of it."""
        self._state = self._empty()
        self._macs = [_FIRST_MAC]
        self._rotations: list[int] = []  # numbers of those entries

    @property
    def _entries(self) -> int:
        return len(self._macs) - 1

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """After an error what is known may not be what is stored: it is all read anew."""
        try:
            yield
        except BaseException:
            self._forget()
            raise

    def _replay(self, connection: sql.Connection) -> "_Head":
        head = self._read_head()  # before the log: other processes add to that, then to the head
        added = TABLE.select().where(TABLE.c.number >= self._entries).order_by(TABLE.c.number)
        for row in connection.execute(added):
            expected = self._mac(row.kind, row.body)
            if row.number != self._entries or row.mac != expected.hex():
                raise IntegrityError(
                    f"registry: entry {row.number} was changed, moved or follows a removed one; "
                    "restore the registry from a backup"
                )
            self._take(row.kind, json.loads(row.body), expected)
        self._check_head(head)
        return head

    def _take(self, kind: str, body: Body, mac: bytes) -> None:
        """Let an authentic entry be the newest."""
        if kind == ROTATION:
            self._require_next_key(body)
            self._rotations.append(self._entries)
        self._apply(self._state, kind, body)
        self._macs.append(mac)

    def _require_next_key(self, body: Body) -> None:
        number = len(self._rotations) + 1
        if number >= len(self._keys):
            raise IntegrityError(
                "registry: continues under a newer master key than master.key was opened with; "
                "start again, or restore master.key"
            )
        if body["commitment"] != self._keys[number].commitment():
            raise IntegrityError("registry: continues under a master key that is not this owner's")

    def _key_after(self, entries: int) -> OwnerKey:
        """The key of a log's next entry, and of its head; of the last one known at most."""
        return self._keys[bisect.bisect_left(self._rotations, entries)]

    def _mac(self, kind: str, body: str) -> bytes:
        """HMAC of the next entry."""
        message = self._macs[-1] + json.dumps([FORMAT, self._entries, kind, body]).encode()
        return self._key_after(self._entries).authenticate("registry", message)

    def _write_head(self) -> None:
        # Another process may have written a newer one since our transaction ended. Whether that is
        # authentic is found out by whoever reads it together with the log.
        if self._head.exists() and self._read_head().entries >= self._entries:
            return
        files.write_json(self._head, self._head_document())

    def _head_document(self) -> Body:
        last = self._macs[-1].hex()
        seal = self._seal(self._entries, last)
        return {"format": FORMAT, "entries": self._entries, "mac": last, "seal": seal}

    def _read_head(self) -> "_Head":
        try:
            document = json.loads(self._head.read_bytes())
            head = _Head(document["entries"], document["mac"], document["seal"])
            if type(head.entries) is not int or head.entries < 0:
                raise ValueError("entries")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise self._bad_head() from None
        return head

    def _check_head(self, head: "_Head") -> None:
        """Compare a head with the log, which was read after it."""
        if head.seal != self._seal(head.entries, head.mac):
            raise self._bad_head()
        if head.entries > self._entries:
            raise IntegrityError(
                f"registry: {self._entries} entries, {head.entries} were written; restore it"
            )
        if head.mac != self._macs[head.entries].hex():
            raise IntegrityError("registry: does not belong to the head file beside the key")

    def _bad_head(self) -> IntegrityError:
        return IntegrityError(f"{self._head}: missing or not as written; restore it")

    def _seal(self, entries: int, mac: str) -> str:
        message = json.dumps([FORMAT, entries, mac]).encode()
        return self._key_after(entries).authenticate("registry-head", message).hex()


@dataclass(frozen=True)
class _Head:
    """What a head file says."""

    entries: int
    mac: str
    seal: str
