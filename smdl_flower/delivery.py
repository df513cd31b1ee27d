"""The protocol by which a participant gets its own copy, and nobody else does.

    server -> node   challenge
    node -> server   nonce, one-time sealing key, and a signature of all of this by the node's key
    server -> node   the copy of the customer with that key, sealed for the one-time key
    node -> server   receipt: a signature of what it now has

Who a node is, is decided by the public keys that the owner registered: what it says about itself
counts for nothing. Each message is bound to all that went before (:class:`Session`), so that none
can be replayed, in another run or at another node. The one-time key is forgotten after use: whoever
stored the sealed copy on its way and steals the node's key later cannot open it.

This module knows neither Flower nor the registry; both sides use it.
"""

import re
import secrets
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from smdl_flower import nodekeys, sealing
from smdl_flower.errors import DeliveryError
from smdl_flower.nodekeys import NodePublicKey
from smdl_flower.sealing import SealingKey

FORMAT = "smdl-delivery/1"

_HEX_32 = re.compile(r"[0-9a-f]{64}")
_LONGEST_SIGNATURE = 2 * 104  # DER of two P-384 integers, in hexadecimal


@dataclass(frozen=True)
class Session:
    """One exchange of the server with one node.

    Attributes:
        run: Flower's id of the run; each side has it from its own Flower process.
        node: Flower's id of the node; the same.
        challenge: 32 random bytes of the server, hexadecimal.
        nonce: 32 random bytes of the node, hexadecimal.
        key: Fingerprint of the node's public key.
        seal_to: The node's one-time sealing key, hexadecimal.
    """

    run: str
    node: str
    challenge: str
    nonce: str
    key: str
    seal_to: str

    def statement(self, kind: str, *more: str) -> tuple[str, ...]:
        """Return what is signed, or the context of a seal.

        Nothing in it is chosen by the other side alone but 32 bytes in hexadecimal, so nobody can
        be made to sign something that means anything elsewhere.
        """
        parts = (self.run, self.node, self.challenge, self.nonce, self.key, self.seal_to)
        return (FORMAT, kind, *parts, *more)


def new_challenge() -> str:
    """Return a challenge that was never used before."""
    return secrets.token_hex(32)


def answer(
    run: str, node: str, challenge: str, private: EllipticCurvePrivateKey
) -> tuple[Session, SealingKey, str]:
    """Answer a challenge; return the session, its one-time key and the signature.

    Raises:
        DeliveryError: The challenge is not 32 bytes in hexadecimal.

    Example:
        >>> from cryptography.hazmat.primitives.asymmetric import ec
        >>> private = ec.generate_private_key(ec.SECP384R1())
        >>> session, one_time, signature = answer("7", "1", new_challenge(), private)
        >>> public = nodekeys.public_half(private)
        >>> check_answer(session, public, signature)
        >>> digest = "ab" * 32
        >>> unpack(session, one_time, pack(session, b"the copy", digest), digest)
        b'the copy'
        >>> check_receipt(session, public, digest, receipt(session, private, digest))
    """
    require_hex(challenge, "challenge")
    one_time = SealingKey.generate()
    session = Session(
        run=run,
        node=node,
        challenge=challenge,
        nonce=secrets.token_hex(32),
        key=nodekeys.public_half(private).fingerprint,
        seal_to=one_time.public.hex(),
    )
    return session, one_time, nodekeys.sign(private, session.statement("answer")).hex()


def check_answer(session: Session, key: NodePublicKey, signature: str) -> None:
    """Accept a node's answer.

    Args:
        session: With the server's own run, node and challenge, and the rest as the node says.
        key: As registered for the customer whose fingerprint the node names.
        signature: As the node sent it.

    Raises:
        DeliveryError: It was not signed by that key, for this run, node and challenge.
    """
    require_hex(session.nonce, "nonce")
    require_hex(session.seal_to, "sealing key")
    _check(session.statement("answer"), key, signature, "answer")


def pack(session: Session, content: bytes, weights_sha256: str) -> bytes:
    """Seal a copy for the node of a session.

    Raises:
        SealError: The node's one-time key is none.
        CapacityError: The copy is too large.
    """
    context = session.statement("copy", weights_sha256)
    return sealing.seal(content, bytes.fromhex(session.seal_to), context)


def unpack(session: Session, one_time: SealingKey, sealed: bytes, weights_sha256: str) -> bytes:
    """Open a copy.

    Raises:
        DeliveryError: The digest is none.
        SealError: It was altered on its way, or sealed for another session or digest.
    """
    require_hex(weights_sha256, "digest")
    return one_time.open(sealed, session.statement("copy", weights_sha256))


def receipt(session: Session, private: EllipticCurvePrivateKey, weights_sha256: str) -> str:
    """Return the node's signature that it has the copy."""
    return nodekeys.sign(private, session.statement("receipt", weights_sha256)).hex()


def check_receipt(
    session: Session, key: NodePublicKey, weights_sha256: str, signature: str
) -> None:
    """Accept a receipt.

    Raises:
        DeliveryError: It is not for this copy in this session, or not by that key.
    """
    _check(session.statement("receipt", weights_sha256), key, signature, "receipt")


def require_hex(text: str, what: str) -> None:
    """Raise :class:`DeliveryError` unless a text is 32 bytes in hexadecimal."""
    if not _HEX_32.fullmatch(text):
        raise DeliveryError(f"the {what} is not 64 hexadecimal digits")


def _check(statement: tuple[str, ...], key: NodePublicKey, signature: str, what: str) -> None:
    try:
        raw = bytes.fromhex(signature) if len(signature) <= _LONGEST_SIGNATURE else b""
    except ValueError:
        raw = b""
    if not key.signed(statement, raw):
        raise DeliveryError(f"the {what} is not signed by the key it names, for this question")
