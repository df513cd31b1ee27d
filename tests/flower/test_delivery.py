"""Each participant that is a customer gets its own copy, and no one else's, whoever lies.

Nodes run the real client app; a test may put itself between it and the grid (``tampering``).
"""

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.supercore.primitives import asymmetric

from client_app.app import app as client_app
from smdl_flower import delivery, nodekeys, weights
from smdl_flower.config import Scalar
from smdl_flower.flower import delivering, inline, parcels
from smdl_flower.flower.delivering import Deliverer, Outcome
from smdl_flower.home import OwnerHome
from smdl_flower.issuing import IssueResult
from smdl_flower.nodekeys import NodePublicKey
from smdl_flower.sealing import SealingKey
from smdl_flower.verifying import verify

CUSTOMERS = ("clinic-a", "clinic-b", "clinic-c")
RUN_CONFIG = {"model": "cnn"}

Honest = Callable[[Message], Message]
Tampering = Callable[[Message, Context, Honest], Message]


@dataclass
class Federation:
    """Three nodes, 1 to 3, of the customers clinic-a to clinic-c, and the owner's home."""

    home: OwnerHome
    model_id: str
    results: dict[str, IssueResult]
    place: Path
    node_configs: list[dict[str, Scalar]]
    sent: list[tuple[int, str, RecordDict]] = field(default_factory=list)
    tampering: dict[int, Tampering] = field(default_factory=dict)

    def __call__(self, message: Message, context: Context) -> Message:
        self.sent.append((context.node_id, message.metadata.message_type, message.content))
        change = self.tampering.get(context.node_id)
        if change is None:
            return client_app(message, context)
        return change(message, context, lambda m: client_app(m, context))

    @cached_property
    def grid(self) -> inline.InlineGrid:
        return inline.InlineGrid(self, 3, RUN_CONFIG, self.node_configs)

    def deliver(self) -> dict[str, Outcome]:
        copies = [self.results[name] for name in CUSTOMERS]
        deliverer = Deliverer(self.home.registry, "trial-1", 1.0)
        outcomes = deliverer.deliver(self.grid, self.model_id, copies)
        assert [o.customer for o in outcomes] == list(CUSTOMERS)
        return {o.customer: o for o in outcomes}

    def ask(self, node: int, kind: str, content: RecordDict) -> dict[str, Any]:
        """Send a node a message of a malicious server; return the fields of its reply."""
        (reply,) = self.grid.send_and_receive(
            [self.grid.create_message(content, kind, node, "test")]
        )
        assert not reply.has_error(), reply.error
        assert not reply.content.array_records
        return dict(reply.content.config_records["delivery"])

    def challenge(self, node: int, text: str) -> dict[str, Any]:
        return self.ask(node, parcels.PRESENT, parcels.write({parcels.CHALLENGE: text}))

    def folder(self, node: int) -> Path:
        return self.place / f"node-{node}" / "copies"

    def kept(self, node: int) -> list[Path]:
        folder = self.folder(node)
        return sorted(folder.iterdir()) if folder.exists() else []

    def got_a_parcel(self, node: int) -> bool:
        return any((n, kind) == (node, parcels.RECEIVE) for n, kind, _ in self.sent)


def write_key(path: Path) -> NodePublicKey:
    private = ec.generate_private_key(ec.SECP384R1())
    encoding, kind = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(private.private_bytes(encoding, kind, serialization.NoEncryption()))
    path.chmod(0o600)
    return nodekeys.public_half(private)


@pytest.fixture
def federation(home_copy, issue_results, campaign, tmp_path):
    node_configs: list[dict[str, Scalar]] = []
    for number, name in enumerate(CUSTOMERS, start=1):
        place = tmp_path / f"node-{number}"
        home_copy.registry.set_key(name, write_key(place / "node.key"))
        node_configs.append(
            {"node-key": str(place / "node.key"), "copies-dir": str(place / "copies")}
        )
    model_id = campaign.model.model_id
    return Federation(home_copy, model_id, issue_results, tmp_path, node_configs)


def only(federation, *delivered):
    """Deliver, and check that these customers got their copies and nobody got anything else."""
    outcomes = federation.deliver()
    assert {name for name, o in outcomes.items() if o.delivered} == set(delivered)
    assert {d.customer for d in federation.home.registry.deliveries()} == set(delivered)
    for number, name in enumerate(CUSTOMERS, start=1):
        digests = [weights.digest(weights.read(path).weights) for path in federation.kept(number)]
        assert digests in ([], [federation.results[name].sha256])
        assert bool(outcomes[name].reason) != outcomes[name].delivered
    return outcomes


# ------------------------------------------------------------------------------------- it works


def test_each_node_gets_its_own_copy_and_signs_for_it(federation):
    outcomes = only(federation, *CUSTOMERS)
    assert outcomes["clinic-b"] == Outcome("clinic-b", "2", True, "")
    (path,) = federation.kept(2)
    assert path.stat().st_mode & 0o777 == 0o600
    verdict = verify(federation.home, path)
    assert [a.customer for a in verdict.accused] == ["clinic-b"]
    record = federation.home.registry.deliveries()[1]
    key = federation.home.registry.public_keys()["clinic-b"]
    assert key.signed(record.statement, bytes.fromhex(record.signature))
    assert record.weights_sha256 == record.statement[-1] == federation.results["clinic-b"].sha256


def pieces(model):
    """Bytes that a message with the model in clear would hold, wherever it were cut."""
    raw = np.concatenate([model[name].ravel() for name in sorted(model) if model[name].ndim > 1])
    return {raw[i : i + 8].tobytes() for i in range(0, len(raw) - 8, 1009)}


def bytes_of(content: RecordDict) -> bytes:
    arrays = [a.data for record in content.array_records.values() for a in record.values()]
    texts = [repr(dict(record)).encode() for record in content.config_records.values()]
    return b"".join([*arrays, *texts])


def holds(content, model):
    found = bytes_of(content)
    return any(piece in found for piece in pieces(model))


def test_no_message_holds_a_copy_or_the_base_model_in_clear(federation, copies, base):
    only(federation, *CUSTOMERS)
    contents = [content for _, _, content in federation.sent]
    assert len(contents) == 6
    for model in (base, *copies.values()):
        assert not any(holds(content, model) for content in contents)
    in_clear = RecordDict({"arrays": ArrayRecord({k: Array(v) for k, v in base.items()})})
    assert holds(in_clear, base)  # the search finds what it looks for
    a_file = federation.results["clinic-a"].path.read_bytes()
    assert holds(parcels.write({}, a_file), copies["clinic-a"])


def test_a_parcel_opens_for_its_node_only(federation):
    """What another node, or whoever reads the SuperLink's database, has of a delivery."""
    seen = {}

    def keep(message, context, honest):
        if message.metadata.message_type == parcels.RECEIVE:
            seen[context.node_id] = message.content
            seen["state of", context.node_id] = RecordDict(dict(context.state))
        return honest(message)

    federation.tampering = {1: keep, 2: keep}
    only(federation, *CUSTOMERS)
    for path in [*federation.kept(1), *federation.kept(2)]:
        path.unlink()
    for opener, expected in ((1, 1), (2, 0)):  # the control, and the attack
        context = federation.grid._contexts[opener]
        context.state["delivery-pending"] = seen["state of", opener]["delivery-pending"]
        federation.tampering = {}
        reply = federation.ask(opener, parcels.RECEIVE, seen[1])
        assert ("declined" in reply) != bool(expected)
        assert len(federation.kept(opener)) == expected


def test_a_second_delivery_of_the_same_copy_finds_it_there(federation):
    only(federation, *CUSTOMERS)
    before = [path.stat().st_ino for path in federation.kept(1)]
    assert all(o.delivered for o in federation.deliver().values())
    assert [path.stat().st_ino for path in federation.kept(1)] == before
    assert len(federation.home.registry.deliveries()) == 6


# ------------------------------------------------------------------------------- nodes that lack


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("node-key"), "this node has no node-key"),
        (lambda c: c.update({"node-key": ""}), "this node has no node-key"),
        (lambda c: c.update({"node-key": 5}), "this node has no node-key"),
        (lambda c: c.update({"node-key": "/nowhere/node.key"}), "cannot be used"),
        (lambda c: c.update({"node-key": "a\0b"}), "cannot be used"),
        (lambda c: Path(c["node-key"]).chmod(0o640), "cannot be used"),
        (lambda c: Path(c["node-key"]).write_bytes(b"x" * 100_000), "cannot be used"),
        (lambda c: c.pop("copies-dir"), "this node has no copies-dir"),
        (lambda c: c.update({"copies-dir": "copies"}), "this node has no copies-dir"),
        (lambda c: write_key(Path(c["node-key"])), "the key of no customer with a copy"),
    ],
)
def test_a_node_that_cannot_prove_itself_gets_nothing(change, reason, federation):
    change(federation.node_configs[1])
    outcomes = only(federation, "clinic-a", "clinic-c")
    assert reason in outcomes["clinic-b"].reason
    assert str(federation.place) not in outcomes["clinic-b"].reason  # no path leaves a node
    assert not federation.got_a_parcel(2)


def test_customers_without_a_key_are_named(federation):
    copies = [*federation.results.values()]
    deliverer = Deliverer(federation.home.registry, "trial-1", 1.0)
    outcomes = deliverer.deliver(federation.grid, federation.model_id, copies)
    missing = {o.customer for o in outcomes if o.reason == delivering.NO_KEY}
    assert missing == {f"clinic-{letter}" for letter in "defgh"}


def test_a_silent_node_and_a_grid_that_breaks_fail_nothing(federation, monkeypatch):
    federation.grid.silent = {3}
    assert only(federation, "clinic-a", "clinic-b")["clinic-c"].reason == delivering.NO_NODE

    def broken(*_args, **_kwargs):
        raise ConnectionError("SuperLink is gone")

    monkeypatch.setattr(federation.grid, "send_and_receive", broken)
    assert not any(o.delivered for o in federation.deliver().values())


def test_a_copies_folder_that_cannot_be_written_is_not_delivered_to(federation):
    federation.folder(1).write_text("a file, not a folder")
    outcomes = federation.deliver()
    assert outcomes["clinic-a"].reason == "declined: the copy cannot be written here"
    assert outcomes["clinic-b"].delivered


# ---------------------------------------------------------------------------------- nodes that lie


def test_a_replayed_answer_of_another_node_brings_nothing(federation):
    answers = {}

    def remember(message, context, honest):
        reply = honest(message)
        answers[message.metadata.message_type] = dict(reply.content.config_records["delivery"])
        return reply

    def replay(message, _context, _honest):
        kind = message.metadata.message_type
        return Message(parcels.write(answers[kind]), reply_to=message)

    federation.tampering = {1: remember, 2: replay}
    outcomes = only(federation, "clinic-a", "clinic-c")
    assert not federation.got_a_parcel(2)
    assert "not signed by the key it names" in outcomes["clinic-b"].reason


def test_a_node_that_answers_for_another_customer_brings_neither_harm_nor_copy(federation):
    victim = federation.home.registry.public_keys()["clinic-a"].fingerprint

    def claim(message, _context, honest):
        fields = dict(honest(message).content.config_records["delivery"])
        return Message(parcels.write({**fields, "key": victim}), reply_to=message)

    federation.tampering = {2: claim}
    only(federation, "clinic-a", "clinic-c")
    assert not federation.got_a_parcel(2)


def test_two_nodes_with_one_key_get_nothing(federation):
    federation.node_configs[1]["node-key"] = federation.node_configs[0]["node-key"]
    outcomes = only(federation, "clinic-c")
    assert "nodes 1 and 2 both have its key" in outcomes["clinic-a"].reason
    assert not federation.got_a_parcel(1)
    assert not federation.got_a_parcel(2)


def replying(fields):
    """A tampering: this in place of an honest answer (a function of it, if callable)."""

    def change(message, _context, honest):
        own = dict(honest(message).content.config_records["delivery"])
        content = fields(own) if callable(fields) else fields
        if not isinstance(content, RecordDict):
            content = parcels.write(content)
        return Message(content, reply_to=message)

    return change


def crash(_message, _context, _honest):
    raise RuntimeError("no\nluck \x1b[31m")


HOSTILE_ANSWERS = {
    "other fields": replying({"nonce": "00"}),
    "more fields": replying(lambda own: {**own, "customer": "clinic-a"}),
    "no hexadecimal nonce": replying(lambda own: {**own, "nonce": "../" * 21 + "x"}),
    "another nonce": replying(lambda own: {**own, "nonce": "0" * 64}),
    "no sealing key": replying(lambda own: {**own, "seal-to": "zz" * 32}),
    "another sealing key": replying(lambda own: {**own, "seal-to": "09" + "00" * 31}),
    "no signature": replying(lambda own: {**own, "signature": ""}),
    "a signature that is no DER": replying(lambda own: {**own, "signature": "ab" * 60}),
    "an endless signature": replying(lambda own: {**own, "signature": "ab" * 400}),
    "a long text": replying(lambda own: {**own, "signature": "ab" * 10_000}),
    "a number": replying(
        lambda own: RecordDict({"delivery": ConfigRecord({**own, "signature": 7})})
    ),
    "two records": replying(
        lambda own: RecordDict({"delivery": ConfigRecord(own), "more": ConfigRecord()})
    ),
    "metrics": replying(
        lambda own: RecordDict({"delivery": ConfigRecord(own), "m": MetricRecord({"x": 1})})
    ),
    "arrays": replying(lambda own: parcels.write(own, b"x")),
    "nothing": replying(RecordDict()),
    "a crash": crash,
}


@pytest.mark.parametrize("what", HOSTILE_ANSWERS)
def test_a_hostile_answer_brings_no_copy_and_fails_nobody_else(what, federation):
    federation.tampering = {2: HOSTILE_ANSWERS[what]}
    outcomes = only(federation, "clinic-a", "clinic-c")
    assert outcomes["clinic-b"].reason.startswith(delivering.NO_NODE + " (node 2: ")
    assert outcomes["clinic-b"].reason.isprintable()
    assert not federation.got_a_parcel(2)


def test_a_one_time_key_of_low_order_is_not_sealed_for(federation, monkeypatch):
    """Whoever knew the trick could open it: the shared secret would be zero."""

    def answer_with_zero_key(message, context, _honest):
        with monkeypatch.context() as patch:
            patch.setattr(SealingKey, "public", property(lambda _: bytes(32)))
            return client_app(message, context)

    federation.tampering = {2: answer_with_zero_key}
    outcomes = only(federation, "clinic-a", "clinic-c")
    assert "not a usable X25519 public key" in outcomes["clinic-b"].reason
    assert not federation.got_a_parcel(2)


def when_receiving(change):
    def tampering(message, context, honest):
        if message.metadata.message_type != parcels.RECEIVE:
            return honest(message)
        return change(message, context, honest)

    return tampering


HOSTILE_RECEIPTS = {
    **{
        name: HOSTILE_ANSWERS[name]
        for name in ("other fields", "more fields", "no signature", "an endless signature")
    },
    "for another copy": replying(lambda own: {**own, "sha256": "0" * 64}),
    "declined": replying({"declined": "I say no\n\x1b[2J" + "x" * 500}),
    "nothing": replying(RecordDict()),
    "a crash": crash,
}


@pytest.mark.parametrize("what", HOSTILE_RECEIPTS)
def test_a_hostile_receipt_is_not_a_delivery(what, federation):
    federation.tampering = {2: when_receiving(HOSTILE_RECEIPTS[what])}
    outcomes = only(federation, "clinic-a", "clinic-c")
    assert outcomes["clinic-b"].node == "2"
    assert outcomes["clinic-b"].reason.isprintable()
    assert len(outcomes["clinic-b"].reason) < 300


def test_an_answers_signature_is_no_receipt(federation):
    signatures: dict[str, str] = {}

    def reuse(message, _context, honest):
        own = dict(honest(message).content.config_records["delivery"])
        signatures.setdefault("first", own["signature"])
        if message.metadata.message_type == parcels.RECEIVE:
            own["signature"] = signatures["first"]
        return Message(parcels.write(own), reply_to=message)

    federation.tampering = {2: reuse}
    outcomes = only(federation, "clinic-a", "clinic-c")
    assert "the receipt is not signed" in outcomes["clinic-b"].reason


def test_a_node_that_never_says_it_has_the_copy_is_not_recorded(federation, monkeypatch):
    send = federation.grid.send_and_receive

    def losing(messages, **kwargs):
        messages = list(messages)
        replies = send(messages, **kwargs)
        lost = {m.metadata.message_id for m in messages if m.metadata.dst_node_id == 2}
        if messages[0].metadata.message_type == parcels.PRESENT:
            return replies
        return [r for r in replies if r.metadata.reply_to_message_id not in lost]

    monkeypatch.setattr(federation.grid, "send_and_receive", losing)
    outcomes = only(federation, "clinic-a", "clinic-c")
    assert "did not say in time" in outcomes["clinic-b"].reason


# -------------------------------------------------------------------- what is changed on the way


def altered(change):
    """A tampering with the parcel on its way to the node."""

    def tampering(message, _context, honest):
        fields = dict(message.content.config_records["delivery"])
        message.content = change(fields, parcels.sealed_bytes(message.content))
        return honest(message)

    return when_receiving(tampering)


def flip(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


ALTERED = {
    "first byte": altered(lambda f, s: parcels.write(f, flip(s, 0))),
    "a byte of the model": altered(lambda f, s: parcels.write(f, flip(s, len(s) // 2))),
    "last byte": altered(lambda f, s: parcels.write(f, flip(s, -1))),
    "cut off": altered(lambda f, s: parcels.write(f, s[:-1])),
    "longer": altered(lambda f, s: parcels.write(f, s + b"x")),
    "empty": altered(lambda f, _: parcels.write(f, b"")),
    "another digest": altered(lambda f, s: parcels.write({**f, "sha256": "0" * 64}, s)),
    "no digest": altered(lambda f, s: parcels.write({**f, "sha256": "../../x"}, s)),
    "another challenge": altered(lambda f, s: parcels.write({**f, "challenge": "0" * 64}, s)),
    "a file name": altered(lambda f, s: parcels.write({**f, "customer": "../../evil"}, s)),
    "no copy": altered(lambda f, _: parcels.write(f)),
    "numbers": altered(
        lambda f, s: RecordDict(
            {
                "delivery": ConfigRecord(f),
                "sealed": ArrayRecord({"sealed": Array(np.frombuffer(s[: len(s) & ~7], "<f8"))}),
            }
        )
    ),
    "a pickle": altered(
        lambda f, _: RecordDict(
            {
                "delivery": ConfigRecord(f),
                "sealed": ArrayRecord(
                    {"sealed": Array("object", (1,), "numpy.ndarray", b"\x80\x04N.")}
                ),
            }
        )
    ),
}


@pytest.mark.parametrize("what", ALTERED)
def test_a_copy_that_was_altered_on_its_way_is_refused_and_not_kept(what, federation):
    federation.tampering = {2: ALTERED[what]}
    outcomes = only(federation, "clinic-a", "clinic-c")
    assert outcomes["clinic-b"].reason.startswith("declined: ")
    assert federation.kept(2) == []
    assert not list(federation.place.rglob("*evil*"))


def test_a_copy_that_was_changed_at_the_owner_is_not_sent(federation, tmp_path):
    changed = tmp_path / "changed.safetensors"
    weights.write(changed, {"w": np.ones((2, 2), np.float32)})
    federation.results = {
        **federation.results,
        "clinic-b": replace(federation.results["clinic-b"], path=changed),
    }
    outcomes = only(federation, "clinic-a", "clinic-c")
    assert "changed since it was issued" in outcomes["clinic-b"].reason
    assert not federation.got_a_parcel(2)


# ----------------------------------------------------------------------- a server that is not ours


def parcel_of(federation, node, content, digest=None):
    """Answer honestly as a server would, with any content."""
    challenge = delivery.new_challenge()
    fields = federation.challenge(node, challenge)
    session = delivery.Session(
        *("1", str(node), challenge, fields["nonce"], fields["key"], fields["seal-to"])
    )
    digest = digest or "0" * 64
    sealed = delivery.pack(session, content, digest)
    fields = {parcels.CHALLENGE: challenge, parcels.SHA256: digest}
    return federation.ask(node, parcels.RECEIVE, parcels.write(fields, sealed))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sign this",
        "2026-11-25T15:35:44.693689+00:00",
        '", "receipt", "',
        "AB" * 32,
        "ab" * 32 + "\n",
        "ab" * 33,
        "x" * 5000,
    ],
)
def test_a_node_signs_nothing_but_answers_to_random_challenges(text, federation):
    assert set(federation.challenge(1, text)) == {"declined"}
    assert "delivery-pending" not in federation.grid._contexts[1].state


def test_neither_protocol_accepts_the_others_signature(federation):
    """The same key signs a time in Flower's node authentication."""
    fields = federation.challenge(1, "ab" * 32)
    signature = bytes.fromhex(fields["signature"])
    names = ("1", "1", "ab" * 32, fields["nonce"], fields["key"], fields["seal-to"])
    statement = delivery.Session(*names).statement("answer")
    key = federation.home.registry.public_keys()["clinic-a"]
    assert key.signed(statement, signature)  # the control
    encoded = nodekeys._encoded(statement)
    public = serialization.load_ssh_public_key(key.text.encode())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert not asymmetric.verify_signature(public, encoded, signature)
    with pytest.raises(ValueError, match="isoformat"):
        datetime.datetime.fromisoformat(encoded.decode())
    private = nodekeys.load_private(Path(federation.node_configs[0]["node-key"]))
    assert asymmetric.verify_signature(public, encoded, asymmetric.sign_message(private, encoded))
    assert not key.signed(statement, asymmetric.sign_message(private, encoded))


def test_a_challenge_is_answered_once(federation):
    assert "signature" in federation.challenge(1, "ab" * 32)
    assert federation.challenge(1, "ab" * 32) == {"declined": "that challenge was answered before"}
    assert "signature" in federation.challenge(1, "cd" * 32)


def test_the_same_challenge_gets_another_nonce_at_another_node(federation):
    one, two = federation.challenge(1, "ab" * 32), federation.challenge(2, "ab" * 32)
    assert all(one[name] != two[name] for name in ("nonce", "seal-to", "signature", "key"))


def test_a_parcel_without_a_question_or_sent_twice_is_declined(federation):
    first = {}

    def keep(message, _context, honest):
        first["content"] = message.content
        return honest(message)

    federation.tampering = {2: when_receiving(keep)}
    assert "declined" in federation.ask(2, parcels.RECEIVE, parcels.write({"sha256": "0" * 64}))
    only(federation, *CUSTOMERS)
    (path,) = federation.kept(2)
    path.unlink()
    reply = federation.ask(2, parcels.RECEIVE, first["content"])
    assert "handled already" in reply["declined"]
    assert federation.kept(2) == []


def test_a_servers_parcel_must_be_a_sound_model_of_the_run(federation, spec, base):
    """The control first: a sound one is kept."""
    metadata = spec.to_metadata()
    sound = weights.to_bytes(base, metadata)
    reply = parcel_of(federation, 1, sound, weights.digest(base))
    assert set(reply) == {"sha256", "signature"}
    assert [path.name for path in federation.kept(1)] == [
        f"copy-{weights.digest(base)[:16]}.safetensors"
    ]
    nan = {**base, "extra": np.full(3, np.nan, np.float32)}
    other = {"w": np.ones((2, 2), np.float32)}
    hostile = {
        "no file": (b"x", None),
        "a pickle": (b"\x80\x04N.", None),
        "an endless header": (b"\xff" * 64, None),
        "cut off": (sound[:-9], weights.digest(base)),
        "NaN": (weights.to_bytes(nan, metadata), weights.digest(nan)),
        "another digest": (sound, "1" * 64),
        "another model's tensors": (weights.to_bytes(other, metadata), weights.digest(other)),
        "another architecture": (
            weights.to_bytes(base, {**metadata, "name": "resnet8"}),
            weights.digest(base),
        ),
        "code to import": (
            weights.to_bytes(base, {**metadata, "name": "os:system"}),
            weights.digest(base),
        ),
        "no metadata": (weights.to_bytes(base), weights.digest(base)),
    }
    for what, (content, digest) in hostile.items():
        assert set(parcel_of(federation, 2, content, digest)) == {"declined"}, what
        assert federation.kept(2) == [], what


@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_no_file_of_the_node_is_overwritten(kind, federation):
    digest = federation.results["clinic-b"].sha256
    federation.folder(2).mkdir(mode=0o700)
    path = federation.folder(2) / f"copy-{digest[:16]}.safetensors"
    target = federation.place / "precious"
    target.write_text("mine")
    if kind == "file":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to(target)
    else:
        path.mkdir()
    outcomes = federation.deliver()
    assert outcomes["clinic-b"].reason == "declined: another file has the copy's name here"
    assert federation.kept(2) == [path]
    assert target.read_text() == "mine"
    if kind == "file":
        assert path.read_text() == "mine"


def test_a_node_answers_only_so_many_challenges(federation):
    context = federation.grid._contexts[1]
    context.state["delivery-answered"] = ConfigRecord(
        {"delivery-answered": [os.urandom(32).hex() for _ in range(1000)]}
    )
    assert federation.challenge(1, "ab" * 32) == {"declined": "too many challenges in one run"}


def test_large_copies_go_one_after_the_other(federation, monkeypatch):
    monkeypatch.setattr(delivering, "BATCH_BYTES", 1)
    sizes = []
    send = federation.grid.send_and_receive

    def counting(messages, **kwargs):
        messages = list(messages)
        sizes.append(len(messages))
        return send(messages, **kwargs)

    monkeypatch.setattr(federation.grid, "send_and_receive", counting)
    only(federation, *CUSTOMERS)
    assert sizes == [3, 1, 1, 1]
