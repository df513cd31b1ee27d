"""A statement is what its key signed, byte for byte, or it is refused."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower import signing
from smdl_flower.errors import IntegrityError
from smdl_flower.signing import SigningKey

KEY = SigningKey(bytes(range(32)))
KIND = "urn:example:1"
SUBJECTS = {"w0": "ab" * 32}
ENVELOPE = KEY.sign(SUBJECTS, KIND, {"customers": 3})


def test_what_was_signed_is_read() -> None:
    statement = signing.read(ENVELOPE, KEY.public, KIND)
    assert statement.subjects == SUBJECTS
    assert statement.predicate == {"customers": 3}


def test_the_bytes_that_are_signed_are_those_of_dsse() -> None:
    """Checked with the public key alone, by the encoding as its specification writes it."""
    document = json.loads(ENVELOPE)
    payload = base64.b64decode(document["payload"])
    kind = document["payloadType"]
    encoded = b"DSSEv1 %d %b %d %b" % (len(kind), kind.encode(), len(payload), payload)
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(KEY.public))
    key.verify(base64.b64decode(document["signatures"][0]["sig"]), encoded)


def test_another_key_or_kind_is_refused() -> None:
    with pytest.raises(IntegrityError, match="not signed by key"):
        signing.read(ENVELOPE, SigningKey(bytes(32)).public, KIND)
    with pytest.raises(IntegrityError, match="not of type"):
        signing.read(ENVELOPE, KEY.public, "urn:example:2")


@given(st.data())
def test_no_byte_of_payload_or_signature_can_be_changed(data: st.DataObject) -> None:
    document = json.loads(ENVELOPE)
    which = data.draw(st.sampled_from(["payload", "sig"]))
    holder = document if which == "payload" else document["signatures"][0]
    raw = bytearray(base64.b64decode(holder[which]))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    holder[which] = base64.b64encode(raw).decode()
    with pytest.raises(IntegrityError):
        signing.read(json.dumps(document).encode(), KEY.public, KIND)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        signing.read(content, KEY.public, KIND)


@pytest.mark.parametrize(
    "change",
    [
        {"signatures": []},
        {"signatures": [{}, {}]},
        {"signatures": None},
        {"payloadType": "text/plain"},
        {"payload": "%"},
        {"payload": 3},
    ],
)
def test_an_envelope_of_another_form_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(IntegrityError):
        signing.read(json.dumps({**json.loads(ENVELOPE), **change}).encode(), KEY.public, KIND)


def test_a_huge_one_is_refused_and_a_key_that_is_none() -> None:
    with pytest.raises(IntegrityError, match="at most"):
        signing.read(b" " * (signing.LARGEST + 1), KEY.public, KIND)
    with pytest.raises(IntegrityError):
        signing.read(ENVELOPE, "zz", KIND)


def test_no_secret_is_shown() -> None:
    assert bytes(range(32)).hex() not in repr(KEY)
    assert repr(KEY) == "SigningKey()"
