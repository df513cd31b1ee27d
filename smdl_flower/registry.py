"""Who was given which model: an append-only, authenticated log in a database.

Customers and the copies issued to them; participants and the models they were sent in training.

Each entry carries an HMAC over itself and its predecessor's HMAC, under a key derived from the
master key. How many entries there are, and the newest HMAC, is kept in a head file beside the key,
authenticated too. So an entry that was changed, inserted, reordered or removed is noticed
before any verdict rests on it. (Restoring database *and* head file from an old backup is not;
publish commitments against that.)

Any SQLAlchemy URL works; SQLite is the default.
"""

import datetime
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from smdl_flower import files
from smdl_flower.errors import ConfigError, IntegrityError
from smdl_flower.fingerprint.keys import OwnerKey

FORMAT = "smdl-registry/1"
NODES_PER_ENTRY = 1000  # some databases hold no more than 64 KiB in a text

_TABLE = sql.Table(
    "smdl_registry_1",
    sql.MetaData(),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("kind", sql.String(16), nullable=False),
    sql.Column("body", sql.Text, nullable=False),
    sql.Column("mac", sql.String(64), nullable=False),
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FIRST_MAC = bytes(32)


@dataclass(frozen=True)
class CopyRecord:
    """One copy that was issued.

    Attributes:
        model_id: Of the base model.
        customer: Who it was made for.
        weights_sha256: Digest of its weights (:func:`smdl_flower.weights.digest`).
        issued_at: UTC, ISO 8601.
    """

    model_id: str
    customer: str
    weights_sha256: str
    issued_at: str


@dataclass(frozen=True)
class BroadcastRecord:
    """A model that was sent to participants.

    Attributes:
        model_sha256: Digest of the unmarked model, all of it.
        public: Names of its tensors that bear no mark: participants know them, check them and
            do not send them back.
        run: Id of the run.
        round: Round of training that starts from it, the first being 1; a run of R rounds ends with
            an entry for R + 1, its result, which nobody is sent.
        spec: How to build its module: ``name``, ``channels``, ``classes``, ``image_size``.
        carrier_length: Values of a carrier.
        nodes: Ids of those it was sent to.
    """

    model_sha256: str
    public: tuple[str, ...]
    run: str
    round: int
    spec: dict[str, Any]
    carrier_length: int
    nodes: tuple[str, ...]


@dataclass
class _State:
    """What the log says when read from the start."""

    customers: list[str] = field(default_factory=list)
    models: dict[str, str] = field(default_factory=dict)
    copies: dict[tuple[str, str], CopyRecord] = field(default_factory=dict)
    refusals: dict[tuple[str, str], str] = field(default_factory=dict)
    broadcasts: dict[tuple[str, str, int], BroadcastRecord] = field(default_factory=dict)
    participants: dict[tuple[str, str], str] = field(default_factory=dict)
    macs: list[bytes] = field(default_factory=lambda: [_FIRST_MAC])

    @property
    def entries(self) -> int:
        return len(self.macs) - 1


class Registry:
    """An open registry; every call first reads and checks what was added to the log since.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> url, key = f"sqlite:///{folder}/registry.db", OwnerKey(bytes(32))
        >>> registry = Registry.create(url, key, folder / "registry.head")
        >>> registry.add_customers(["clinic-a", "bank-b"])
        >>> registry.customers()
        ('clinic-a', 'bank-b')
    """

    def __init__(self, url: str | sql.URL, key: OwnerKey, head: Path) -> None:
        try:
            self._engine = _engine(url)
        except (sql.exc.ArgumentError, ImportError) as error:
            raise ConfigError(f"registry: not a usable database URL ({error})") from None
        self._key = key
        self._head = head
        self._state = _State()  # of the entries checked so far

    @classmethod
    def create(cls, url: str | sql.URL, key: OwnerKey, head: Path) -> "Registry":
        """Create an empty registry.

        Raises:
            ConfigError: The database already holds one, or cannot be reached.
        """
        registry = cls(url, key, head)
        try:
            with registry._engine.begin() as connection:
                _TABLE.create(connection)
        except sql.exc.SQLAlchemyError as error:
            raise ConfigError(
                f"registry: cannot be created, or is there already ({_first_line(error)})"
            ) from None
        registry._write_head(_State())
        return registry

    def customers(self) -> tuple[str, ...]:
        """Return all customers in the order they were added."""
        return tuple(self._read().customers)

    def add_customers(self, names: Sequence[str]) -> None:
        """Add customers, all or none of them.

        Raises:
            ConfigError: A name is unfit for a file name, given twice, or taken already (names
                that differ only in case count as the same: file systems may not tell them apart).
        """
        check_names(names)
        with self._writing() as (state, append):
            taken = {name.casefold() for name in state.customers}
            for name in names:
                if name.casefold() in taken:
                    raise ConfigError(f"customer {name!r} is there already; nothing was added")
                taken.add(name.casefold())
            for name in names:
                append("customer", {"name": name})

    def models(self) -> dict[str, str]:
        """Return the base models: model id -> SHA-256 of its manifest in the vault."""
        return dict(self._read().models)

    def record_model(self, model_id: str, manifest_sha256: str) -> None:
        """Record a base model; the same one twice is recorded once.

        Raises:
            IntegrityError: It was recorded with another manifest.
        """
        with self._writing() as (state, append):
            known = state.models.get(model_id)
            if known is None:
                append("model", {"model_id": model_id, "manifest_sha256": manifest_sha256})
            elif known != manifest_sha256:
                raise IntegrityError(f"model {model_id} is registered with another manifest")

    def copies(self, model_id: str) -> tuple[CopyRecord, ...]:
        """Return the copies issued of a model, in order of issue."""
        return tuple(c for c in self._read().copies.values() if c.model_id == model_id)

    def record_copy(self, model_id: str, customer: str, weights_sha256: str) -> CopyRecord:
        """Record a copy *before* it is handed out; the same copy twice is recorded once.

        Raises:
            ConfigError: No such customer.
            IntegrityError: The customer has another copy of that model.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        copy = CopyRecord(model_id, customer, weights_sha256, now)
        with self._writing() as (state, append):
            if customer not in state.customers:
                raise ConfigError(f"customer {customer!r} is unknown; add it first")
            known = state.copies.get((model_id, customer))
            if known is None:
                append("copy", asdict(copy))
            elif known.weights_sha256 != weights_sha256:
                raise IntegrityError(f"{customer!r} already has another copy of model {model_id}")
            return known or copy

    def record_refusal(self, model_id: str, customer: str, reason: str) -> None:
        """Record that a customer's copy was made and failed its checks; once per customer."""
        with self._writing() as (state, append):
            if (model_id, customer) not in state.refusals:
                append("refusal", {"model_id": model_id, "customer": customer, "reason": reason})

    def words(self, model_id: str) -> int:
        """Return how many customers' words were ever derived for a model, refused ones included.

        Leaving out those that failed their check would be a selection, which the bound does not
        cover (assumption A4).
        """
        state = self._read()
        return len({c for m, c in (*state.copies, *state.refusals) if m == model_id})

    def broadcasts(self) -> tuple[BroadcastRecord, ...]:
        """Return the models sent in training, in order, one record for each run and round."""
        return tuple(self._read().broadcasts.values())

    def record_broadcast(self, record: BroadcastRecord) -> None:
        """Record a model *before* it is sent; to whom it was sent already is recorded once."""
        with self._writing() as (state, append):
            known = state.broadcasts.get((record.model_sha256, record.run, record.round))
            sent = set(known.nodes) if known else set()
            nodes = [node for node in record.nodes if node not in sent]
            if known and not nodes:
                return
            for start in range(0, len(nodes), NODES_PER_ENTRY) or [0]:
                piece = nodes[start : start + NODES_PER_ENTRY]
                append("broadcast", {**asdict(record), "nodes": piece})

    def broadcast_words(self) -> int:
        """Return how many participants' words were ever derived, of all models together."""
        sent = self._read().broadcasts.values()
        return len({(r.model_sha256, r.public, node) for r in sent for node in r.nodes})

    def participant(self, run: str, node: str) -> str | None:
        """Return which participant a node of a run said it is; None if it never answered."""
        return self._read().participants.get((run, node))

    def record_participants(self, run: str, participants: Mapping[str, str]) -> None:
        """Record which participant each node says it is; its first word counts."""
        with self._writing() as (state, append):
            for node, participant in participants.items():
                if (run, node) not in state.participants:
                    append("participant", {"run": run, "node": node, "participant": participant})

    # ------------------------------------------------------------------------------- the log

    def _read(self) -> _State:
        try:
            with self._connection() as connection:
                return self._replay(connection)
        except BaseException:
            self._state = _State()
            raise

    @contextmanager
    def _writing(self) -> Iterator[tuple[_State, Any]]:
        """One transaction: the checked state, and a function that appends an entry to it."""
        try:
            with self._connection() as connection:
                state = self._replay(connection)

                def append(kind: str, body: dict[str, Any]) -> None:
                    text = json.dumps(body, sort_keys=True)
                    mac = self._mac(state.entries, kind, text, state.macs[-1])
                    row = {"number": state.entries, "kind": kind, "body": text, "mac": mac.hex()}
                    connection.execute(_TABLE.insert().values(row))
                    _apply(state, kind, body)
                    state.macs.append(mac)

                yield state, append
        except BaseException:
            self._state = _State()  # what was appended is rolled back: read it all anew
            raise
        # After the commit: a head that lags behind a complete log is accepted, the reverse is not.
        self._write_head(state)

    @contextmanager
    def _connection(self) -> Iterator[sql.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sql.exc.SQLAlchemyError as error:
            reason = _first_line(error)
            if "locked" in reason:
                raise ConfigError("registry: another process keeps it busy; try again") from None
            raise IntegrityError(f"registry: cannot be used ({reason})") from None

    def _replay(self, connection: sql.Connection) -> _State:
        state = self._state
        added = _TABLE.select().where(_TABLE.c.number >= state.entries).order_by(_TABLE.c.number)
        for row in connection.execute(added):
            expected = self._mac(state.entries, row.kind, row.body, state.macs[-1])
            if row.number != state.entries or row.mac != expected.hex():
                raise IntegrityError(
                    f"registry: entry {row.number} was changed, moved or follows a removed one; "
                    "restore the registry from a backup"
                )
            _apply(state, row.kind, json.loads(row.body))
            state.macs.append(expected)
        entries, mac = self._read_head()
        if entries > state.entries:
            raise IntegrityError(
                f"registry: {state.entries} entries, {entries} were written; restore it"
            )
        if mac != state.macs[entries].hex():
            raise IntegrityError("registry: does not belong to the head file beside the key")
        return state

    def _mac(self, number: int, kind: str, body: str, previous: bytes) -> bytes:
        message = previous + json.dumps([FORMAT, number, kind, body]).encode()
        return self._key.authenticate("registry", message)

    def _write_head(self, state: _State) -> None:
        # Another process may have written a newer one since our transaction ended.
        if self._head.exists() and self._read_head()[0] >= state.entries:
            return
        last = state.macs[-1].hex()
        seal = self._seal(state.entries, last)
        document = {"format": FORMAT, "entries": state.entries, "mac": last, "seal": seal}
        files.write_json(self._head, document)

    def _read_head(self) -> tuple[int, str]:
        try:
            document = json.loads(self._head.read_bytes())
            entries, mac, seal = document["entries"], document["mac"], document["seal"]
            if type(entries) is not int or entries < 0 or seal != self._seal(entries, mac):
                raise ValueError("seal")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise IntegrityError(f"{self._head}: missing or not as written; restore it") from None
        return entries, mac

    def _seal(self, entries: int, mac: str) -> str:
        message = json.dumps([FORMAT, entries, mac]).encode()
        return self._key.authenticate("registry-head", message).hex()


def _apply(state: _State, kind: str, body: dict[str, Any]) -> None:
    if kind == "customer":
        state.customers.append(body["name"])
    elif kind == "model":
        state.models[body["model_id"]] = body["manifest_sha256"]
    elif kind == "copy":
        copy = CopyRecord(**body)
        state.copies[copy.model_id, copy.customer] = copy
    elif kind == "refusal":
        state.refusals[body["model_id"], body["customer"]] = body["reason"]
    elif kind == "broadcast":
        lists = {name: tuple(body[name]) for name in ("nodes", "public")}
        record = BroadcastRecord(**{**body, **lists})
        where = (record.model_sha256, record.run, record.round)
        earlier = state.broadcasts.get(where, replace(record, nodes=()))
        state.broadcasts[where] = replace(record, nodes=earlier.nodes + record.nodes)
    elif kind == "participant":
        state.participants[body["run"], body["node"]] = body["participant"]
    else:
        raise IntegrityError(f"registry: entry of kind {kind!r}; written by a newer smdl-flower?")


def check_names(names: Iterable[str]) -> None:
    """Raise :class:`ConfigError` unless every name can be a customer's."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"customer {name[:80]!r}: use 1 to 64 letters, digits, dots, dashes and "
                "underscores, a letter or digit first (it names the copy's file)"
            )


def _engine(url: str | sql.URL) -> sql.Engine:
    engine = sql.create_engine(url, poolclass=sql.pool.NullPool)  # nothing stays open
    if engine.dialect.name == "sqlite":
        # One writer at a time, from its first read on: two processes that issue at once must not
        # continue the chain from the same entry. The driver's own BEGIN comes too late for that.
        @sql.event.listens_for(engine, "connect")
        def _no_implicit_begin(connection: Any, _record: Any) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA busy_timeout = 60000")

        @sql.event.listens_for(engine, "begin")
        def _begin_immediate(connection: sql.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
