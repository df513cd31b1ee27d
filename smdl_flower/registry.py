"""Who was given which model: an append-only, authenticated log (:mod:`smdl_flower.chain`).

Customers and the copies issued to them; participants and the models they were sent in training;
suspects and the questions that they were asked.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import sqlalchemy as sql

from smdl_flower import clock
from smdl_flower.chain import ROTATION, Append, Chain, Export, Meaning
from smdl_flower.database import Row
from smdl_flower.entries import (
    AskedRecord,
    BroadcastRecord,
    CopyRecord,
    DeliveryRecord,
    State,
    apply,
    place,
)
from smdl_flower.errors import ConfigError, IntegrityError
from smdl_flower.fingerprint.keys import OwnerKey
from smdl_flower.nodekeys import NodePublicKey

NODES_PER_ENTRY = 1000  # some databases hold no more than 64 KiB in a text

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Registry:
    """An open registry; every call first reads and checks what was added to the log since.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> url, keys = f"sqlite:///{folder}/registry.db", [OwnerKey(bytes(32))]
        >>> registry = Registry.create(url, keys, folder / "registry.head")
        >>> registry.add_customers(["clinic-a", "bank-b"])
        >>> registry.customers()
        ('clinic-a', 'bank-b')
    """

    def __init__(
        self, url: str | sql.URL, keys: Sequence[OwnerKey], head: Path, *, closed: str = ""
    ) -> None:
        meaning = Meaning(State, apply)
        self._chain = Chain(url, keys, head, meaning, closed)
        self._keys = tuple(keys)

    @classmethod
    def create(cls, url: str | sql.URL, keys: Sequence[OwnerKey], head: Path) -> "Registry":
        """Create an empty registry.

        Args:
            url: Of the database.
            keys: The owner's, the first one first.
            head: The head file.

        Raises:
            ConfigError: The database already holds one, or cannot be reached.
        """
        registry = cls(url, keys, head)
        registry._chain.create()
        return registry

    def require_open(self) -> None:
        """Raise :class:`HomeError` if nothing may be recorded."""
        self._chain.require_open()

    def export(self) -> Export:
        """Return the log as it is now, checked."""
        return self._chain.export()

    def fill(self, rows: Sequence[Row]) -> None:
        """Write an exported log into a database; see :meth:`smdl_flower.chain.Chain.fill`."""
        self._chain.fill(rows)

    def customers(self) -> tuple[str, ...]:
        """Return all customers in the order they were added."""
        return tuple(self._chain.read().customers)

    def add_customers(
        self, names: Sequence[str], keys: Mapping[str, NodePublicKey] | None = None
    ) -> None:
        """Add customers, all or none of them.

        Args:
            names: Of all that are to be added.
            keys: Public keys of some of them.

        Raises:
            ConfigError: A name is unfit for a file name, given twice, or taken already (names
                that differ only in case count as the same: file systems may not tell them apart);
                or a key is another customer's.
        """
        check_names(names)
        with self._chain.writing() as (state, append):
            taken = {name.casefold() for name in state.customers}
            for name in names:
                if name.casefold() in taken:
                    raise ConfigError(f"customer {name!r} is there already; nothing was added")
                taken.add(name.casefold())
            for name in names:
                append("customer", {"name": name})
            for name, key in (keys or {}).items():
                _give_key(state, append, name, key)

    def public_keys(self) -> dict[str, NodePublicKey]:
        """Return the customers' public keys, of those that have one."""
        return dict(self._chain.read().keys)

    def set_key(self, customer: str, key: NodePublicKey) -> None:
        """Give a customer a public key, in place of the one it may have.

        Raises:
            ConfigError: No such customer, or the key is or was another customer's.
        """
        with self._chain.writing() as (state, append):
            _give_key(state, append, customer, key)

    def models(self) -> dict[str, str]:
        """Return the base models: model id -> SHA-256 of its manifest in the vault."""
        return dict(self._chain.read().models)

    def key_of(self, model_id: str) -> int | None:
        """Return which master key a base model belongs to, from 0; None if it is not recorded."""
        return self._chain.read().model_keys.get(model_id)

    def record_model(self, model_id: str, manifest_sha256: str, key: int = 0) -> None:
        """Record a base model; the same one twice is recorded once.

        Args:
            model_id: Of the base model.
            manifest_sha256: Of its manifest in the vault.
            key: Number of the master key, from 0, that its copies are derived from.

        Raises:
            IntegrityError: It was recorded with another manifest or key.
        """
        body = {"model_id": model_id, "manifest_sha256": manifest_sha256, "key": key}
        with self._chain.writing() as (state, append):
            known = state.models.get(model_id)
            if known is None:
                append("model", body)
            elif known != manifest_sha256:
                raise IntegrityError(f"model {model_id} is registered with another manifest")
            elif state.model_keys[model_id] != key:
                raise IntegrityError(f"model {model_id} is registered with another master key")

    def rotations(self) -> int:
        """Return how often the log went on under a new master key."""
        return self._chain.read().rotations

    def record_rotation(self) -> None:
        """Go on under the next of the keys that the registry was opened with."""
        with self._chain.writing() as (state, append):
            append(ROTATION, {"commitment": self._keys[state.rotations + 1].commitment()})

    def commitments(self) -> tuple[str, ...]:
        """Return the SHA-256 of each statement that was published, as far as it was recorded."""
        return tuple(self._chain.read().commitments)

    def record_commitments(self, digests: Sequence[str]) -> None:
        """Record all statements published so far; those that are recorded already are left out.

        Raises:
            IntegrityError: Other ones were recorded.
        """
        with self._chain.writing() as (state, append):
            known = list(state.commitments)
            # Another process may have published and recorded more.
            if any(ours != theirs for ours, theirs in zip(digests, known, strict=False)):
                raise IntegrityError("other commitments were published; restore them from a backup")
            for digest in digests[len(known) :]:
                append("commitment", {"sha256": digest})

    def copies(self, model_id: str) -> tuple[CopyRecord, ...]:
        """Return the copies issued of a model, in order of issue."""
        return tuple(c for c in self._chain.read().copies.values() if c.model_id == model_id)

    def record_copy(self, model_id: str, customer: str, weights_sha256: str) -> CopyRecord:
        """Record a copy *before* it is handed out; the same copy twice is recorded once.

        Raises:
            ConfigError: No such customer.
            IntegrityError: The customer has another copy of that model.
        """
        copy = CopyRecord(model_id, customer, weights_sha256, clock.now())
        with self._chain.writing() as (state, append):
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
        with self._chain.writing() as (state, append):
            if (model_id, customer) not in state.refusals:
                append("refusal", {"model_id": model_id, "customer": customer, "reason": reason})

    def record_delivery(self, record: DeliveryRecord) -> None:
        """Record that a customer signed for its copy.

        Raises:
            IntegrityError: That copy was never issued to it.
        """
        with self._chain.writing() as (state, append):
            issued = state.copies.get((record.model_id, record.customer))
            if issued is None or issued.weights_sha256 != record.weights_sha256:
                raise IntegrityError(f"the copy was never issued to {record.customer!r}")
            append("delivery", {**asdict(record), "statement": list(record.statement)})

    def deliveries(self) -> tuple[DeliveryRecord, ...]:
        """Return all deliveries, in order."""
        return tuple(self._chain.read().deliveries)

    def asked(self, model_id: str) -> tuple[AskedRecord, ...]:
        """Return which pools of a model's questions were disclosed, and to whom, in order."""
        return tuple(r for r in self._chain.read().asked if r.model_id == model_id)

    def record_asked(self, record: AskedRecord) -> None:
        """Record that a pool is disclosed *before* it is; once for each suspect."""
        with self._chain.writing() as (state, append):
            known = [(r.model_id, r.pool, r.suspect) for r in state.asked]
            if (record.model_id, record.pool, record.suspect) not in known:
                append("asked", asdict(record))

    def words(self, model_id: str) -> int:
        """Return how many customers' words were ever derived for a model, refused ones included.

        Leaving out those that failed their check would be a selection, which the bound does not
        cover (assumption A4).
        """
        state = self._chain.read()
        return len({c for m, c in (*state.copies, *state.refusals) if m == model_id})

    def broadcasts(self) -> tuple[BroadcastRecord, ...]:
        """Return the models sent in training, in order, one record for each run and round."""
        return tuple(self._chain.read().broadcasts.values())

    def record_broadcast(self, record: BroadcastRecord) -> None:
        """Record a model *before* it is sent; to whom it was sent already is recorded once."""
        with self._chain.writing() as (state, append):
            known = state.broadcasts.get(place(record))
            sent = set(known.nodes) if known else set()
            nodes = [node for node in record.nodes if node not in sent]
            if known and not nodes:
                return
            for start in range(0, len(nodes), NODES_PER_ENTRY) or [0]:
                piece = nodes[start : start + NODES_PER_ENTRY]
                append("broadcast", {**asdict(record), "nodes": piece})

    def broadcast_words(self) -> int:
        """Return how many participants' words were ever derived, of all models together."""
        sent = self._chain.read().broadcasts.values()
        return len({(r.model_sha256, r.public, r.key, node) for r in sent for node in r.nodes})

    def participant(self, run: str, node: str) -> str | None:
        """Return which participant a node of a run said it is; None if it never answered."""
        return self._chain.read().participants.get((run, node))

    def record_participants(self, run: str, participants: Mapping[str, str]) -> None:
        """Record which participant each node says it is; its first word counts."""
        with self._chain.writing() as (state, append):
            for node, participant in participants.items():
                if (run, node) not in state.participants:
                    append("participant", {"run": run, "node": node, "participant": participant})


def _give_key(state: State, append: Append, customer: str, key: NodePublicKey) -> None:
    if customer not in state.customers:
        raise ConfigError(f"customer {customer!r} is unknown; add it first")
    holder = state.key_holders.get(key, customer)
    if holder != customer:
        raise ConfigError(
            f"the public key of {customer!r} is that of {holder!r}: one key, one name"
        )
    if state.keys.get(customer) != key:
        append("key", {"customer": customer, "public_key": key.text})


def check_names(names: Iterable[str]) -> None:
    """Raise :class:`ConfigError` unless every name can be a customer's."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"customer {name[:80]!r}: use 1 to 64 letters, digits, dots, dashes and "
                "underscores, a letter or digit first (it names the copy's file)"
            )
