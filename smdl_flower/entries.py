"""What the entries of the registry's log say, and all of them together."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from smdl_flower import clock
from smdl_flower.chain import ROTATION
from smdl_flower.errors import IntegrityError
from smdl_flower.nodekeys import NodePublicKey


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
        key: Number of the master key, from 0, that its marks are derived from.
    """

    model_sha256: str
    public: tuple[str, ...]
    run: str
    round: int
    spec: dict[str, Any]
    carrier_length: int
    nodes: tuple[str, ...]
    key: int = 0


@dataclass(frozen=True)
class DeliveryRecord:
    """A copy that its customer's node signed for.

    Attributes:
        model_id: Of the base model.
        customer: Whose copy it is.
        weights_sha256: Digest of its weights.
        run: Id of the run.
        statement: What the node signed (:meth:`smdl_flower.delivery.Session.statement`).
        signature: By the customer's key, hexadecimal.
        delivered_at: UTC, ISO 8601.
    """

    model_id: str
    customer: str
    weights_sha256: str
    run: str
    statement: tuple[str, ...]
    signature: str
    delivered_at: str = field(default_factory=clock.now)


@dataclass(frozen=True)
class AskedRecord:
    """A pool of questions that a suspect was asked, and so knows.

    Attributes:
        model_id: Of the base model.
        pool: Its number.
        suspect: Name or address.
        asked_at: UTC, ISO 8601.
    """

    model_id: str
    pool: int
    suspect: str
    asked_at: str = field(default_factory=clock.now)


@dataclass
class State:
    """What the log says when read from the start."""

    customers: list[str] = field(default_factory=list)
    keys: dict[str, NodePublicKey] = field(default_factory=dict)
    key_holders: dict[NodePublicKey, str] = field(default_factory=dict)  # replaced keys too
    models: dict[str, str] = field(default_factory=dict)
    model_keys: dict[str, int] = field(default_factory=dict)
    copies: dict[tuple[str, str], CopyRecord] = field(default_factory=dict)
    refusals: dict[tuple[str, str], str] = field(default_factory=dict)
    broadcasts: dict[tuple[str, str, int, int], BroadcastRecord] = field(default_factory=dict)
    participants: dict[tuple[str, str], str] = field(default_factory=dict)
    deliveries: list[DeliveryRecord] = field(default_factory=list)
    asked: list[AskedRecord] = field(default_factory=list)
    commitments: list[str] = field(default_factory=list)
    rotations: int = 0


def apply(state: State, kind: str, body: dict[str, Any]) -> None:
    """Take an entry into a state.

    Raises:
        IntegrityError: It is of no kind that this version knows.
    """
    if kind not in _APPLY:
        raise IntegrityError(f"registry: entry of kind {kind!r}; written by a newer smdl-flower?")
    _APPLY[kind](state, body)


def _apply_customer(state: State, body: dict[str, Any]) -> None:
    state.customers.append(body["name"])


def _apply_key(state: State, body: dict[str, Any]) -> None:
    key = NodePublicKey(body["public_key"])
    state.keys[body["customer"]] = key
    state.key_holders[key] = body["customer"]


def _apply_model(state: State, body: dict[str, Any]) -> None:
    state.models[body["model_id"]] = body["manifest_sha256"]
    state.model_keys[body["model_id"]] = body.get("key", 0)  # older versions had one key only


def _apply_copy(state: State, body: dict[str, Any]) -> None:
    copy = CopyRecord(**body)
    state.copies[copy.model_id, copy.customer] = copy


def _apply_refusal(state: State, body: dict[str, Any]) -> None:
    state.refusals[body["model_id"], body["customer"]] = body["reason"]


def _apply_delivery(state: State, body: dict[str, Any]) -> None:
    state.deliveries.append(DeliveryRecord(**{**body, "statement": tuple(body["statement"])}))


def _apply_broadcast(state: State, body: dict[str, Any]) -> None:
    lists = {name: tuple(body[name]) for name in ("nodes", "public")}
    record = BroadcastRecord(**{**body, **lists})
    where = place(record)
    earlier = state.broadcasts.get(where, replace(record, nodes=()))
    state.broadcasts[where] = replace(record, nodes=earlier.nodes + record.nodes)


def place(record: BroadcastRecord) -> tuple[str, str, int, int]:
    """What is one record, however many entries its nodes take."""
    return record.model_sha256, record.run, record.round, record.key


def _apply_commitment(state: State, body: dict[str, Any]) -> None:
    state.commitments.append(body["sha256"])


def _apply_rotation(state: State, body: dict[str, Any]) -> None:
    del body  # the chain has compared it with the key
    state.rotations += 1


def _apply_asked(state: State, body: dict[str, Any]) -> None:
    state.asked.append(AskedRecord(**body))


def _apply_participant(state: State, body: dict[str, Any]) -> None:
    state.participants[body["run"], body["node"]] = body["participant"]


_APPLY: dict[str, Callable[[State, dict[str, Any]], None]] = {
    "customer": _apply_customer,
    "key": _apply_key,
    "model": _apply_model,
    "copy": _apply_copy,
    "refusal": _apply_refusal,
    "delivery": _apply_delivery,
    "broadcast": _apply_broadcast,
    "participant": _apply_participant,
    "asked": _apply_asked,
    "commitment": _apply_commitment,
    ROTATION: _apply_rotation,
}
