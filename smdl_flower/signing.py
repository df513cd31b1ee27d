"""Signed statements: in-toto statements in DSSE envelopes, under the owner's Ed25519 key.

What is signed are bytes, never a document that is written out anew (DSSE v1, protocol.md of
secure-systems-lab/dsse). A statement says which files it is about by their SHA-256 (in-toto
Statement v1); the rest is ours.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from smdl_flower.errors import IntegrityError

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PUBLIC_BYTES = 32
LARGEST = 16 << 20  # bytes of an envelope


@dataclass(frozen=True)
class SigningKey:
    """A private key that signs statements.

    Example:
        >>> key = SigningKey(bytes(32))
        >>> envelope = key.sign({"w0": "00" * 32}, "urn:example", {"customers": 3})
        >>> read(envelope, key.public, "urn:example").predicate
        {'customers': 3}
    """

    secret: bytes = field(repr=False)

    @property
    def public(self) -> str:
        """The half that others check with: 64 hexadecimal digits."""
        return self._private().public_key().public_bytes_raw().hex()

    def sign(
        self, subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, Any]
    ) -> bytes:
        """Return an envelope.

        Args:
            subjects: What the statement is about: name -> SHA-256, hexadecimal.
            predicate_type: What kind of statement, a URI.
            predicate: The statement, of JSON values.
        """
        statement = {
            "_type": STATEMENT_TYPE,
            "subject": [{"name": n, "digest": {"sha256": d}} for n, d in subjects.items()],
            "predicateType": predicate_type,
            "predicate": dict(predicate),
        }
        payload = json.dumps(statement, sort_keys=True, allow_nan=False).encode()
        signature = self._private().sign(_encoded(PAYLOAD_TYPE, payload))
        return _envelope(payload, signature, self.public)

    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.secret)


@dataclass(frozen=True)
class Statement:
    """A statement whose signature was checked.

    Attributes:
        kind: Which of the kinds that were allowed, a URI.
        subjects: Name -> SHA-256, hexadecimal.
        predicate: What is said of them.
    """

    kind: str
    subjects: dict[str, str]
    predicate: dict[str, Any]


def claimed_key(envelope: bytes) -> str:
    """Return the public key that an envelope of an owner's first statement brings; unchecked.

    Raises:
        IntegrityError: It brings none.
    """
    try:
        payload = json.loads(base64.b64decode(json.loads(envelope)["payload"], validate=True))
        return bytes.fromhex(payload["predicate"]["public_key"]).hex()
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IntegrityError("the first statement does not say who signs") from None


def read(envelope: bytes, public: str, *kinds: str) -> Statement:
    """Check an envelope that may be hostile, and return what it says.

    Args:
        envelope: As :meth:`SigningKey.sign` makes it.
        public: Key that must have signed it, hexadecimal.
        kinds: What kind of statement it may be, URIs.

    Raises:
        IntegrityError: It is not such a statement, signed by that key.
    """
    payload = _signed_payload(envelope, public)
    try:
        statement = json.loads(payload)
        kind = statement["predicateType"]
        if statement["_type"] != STATEMENT_TYPE or kind not in kinds:
            raise ValueError("another kind")
        subjects = {str(s["name"]): str(s["digest"]["sha256"]) for s in statement["subject"]}
        if len(subjects) != len(statement["subject"]) or type(statement["predicate"]) is not dict:
            raise ValueError("a name twice, or no predicate")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IntegrityError(f"a signed statement is not of type {' or '.join(kinds)}") from None
    return Statement(kind, subjects, statement["predicate"])


def digest(envelope: bytes) -> str:
    """Return the SHA-256 of an envelope's bytes, hexadecimal."""
    return hashlib.sha256(envelope).hexdigest()


def key_id(public: str) -> str:
    """Return the short name of a public key, for people to compare.

    Example:
        >>> key_id("00" * 32)
        '66687aadf862bd77'
    """
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:16]


def _signed_payload(envelope: bytes, public: str) -> bytes:
    if len(envelope) > LARGEST:
        raise IntegrityError(f"a signed statement has {len(envelope):,} bytes, at most {LARGEST:,}")
    try:
        document = json.loads(envelope)
        payload = base64.b64decode(document["payload"], validate=True)
        (signature,) = (base64.b64decode(s["sig"], validate=True) for s in document["signatures"])
        kind = document["payloadType"]
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise IntegrityError("a signed statement is damaged, or its key is none") from None
    if kind != PAYLOAD_TYPE:
        raise IntegrityError("a signed statement is of another type")
    try:
        key.verify(signature, _encoded(kind, payload))
    except InvalidSignature:
        raise IntegrityError(f"a statement is not signed by key {key_id(public)}") from None
    if envelope != _envelope(payload, signature, public):
        # The digest of an envelope is what gets published: there is one envelope, not many.
        raise IntegrityError("a signed statement has something in it that is not signed")
    return payload


def _envelope(payload: bytes, signature: bytes, public: str) -> bytes:
    """The one way in which a signed payload is written."""
    envelope = {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"keyid": key_id(public), "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope, indent=2, sort_keys=True).encode()


def _encoded(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: type and payload, each behind its length."""
    return b" ".join(
        [b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(payload)).encode(), payload]
    )
