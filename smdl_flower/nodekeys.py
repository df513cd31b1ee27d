"""Keys by which the owner knows participants: what Flower's node authentication uses, P-384.

``smdl deploy init`` makes one for each participant. Flower signs the time with it; here it signs
statements. A statement is a JSON list that begins with the label of a protocol, a time never does,
so neither signature can be passed off as the other (and the hash functions differ).
"""

import base64
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smdl_flower.errors import ConfigError

LARGEST_FILE = 16 * 1024

_ALGORITHM = ec.ECDSA(hashes.SHA384())

Statement = Sequence[str]


@dataclass(frozen=True)
class NodePublicKey:
    """A participant's public key, in one spelling whatever file it came from.

    Attributes:
        text: OpenSSH format without a comment.

    Example:
        >>> private = ec.generate_private_key(ec.SECP384R1())
        >>> key = public_half(private)
        >>> key.signed(["example/1", "hello"], sign(private, ["example/1", "hello"]))
        True
        >>> key.signed(["example/1", "good-bye"], sign(private, ["example/1", "hello"]))
        False
        >>> key.fingerprint[:7], len(key.fingerprint)
        ('SHA256:', 50)
    """

    text: str

    @classmethod
    def parse(cls, content: bytes, source: str) -> "NodePublicKey":
        """Read a public key, OpenSSH or PEM format.

        Args:
            content: Of the file.
            source: What to call it in an error.

        Raises:
            ConfigError: It is none, of another kind than P-384, or a private key.
        """
        if b"PRIVATE KEY" in content:
            raise ConfigError(f"{source}: a private key; give the public one, and keep this secret")
        try:
            key = _load_public(content.strip())
        except (ValueError, NotImplementedError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not _is_p384(key):
            raise ConfigError(
                f"{source}: no P-384 public key in OpenSSH or PEM format; smdl deploy init makes "
                "one for each participant (owner/participants/NAME.pub)"
            )
        return _public(key)

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` shows it, to compare by telephone."""
        digest = serialization.ssh_key_fingerprint(self._loaded(), hashes.SHA256())
        return f"SHA256:{_base64(digest)}"

    def signed(self, statement: Statement, signature: bytes) -> bool:
        """Return whether the holder of the private half signed a statement."""
        try:
            self._loaded().verify(signature, _encoded(statement), _ALGORITHM)
        except InvalidSignature:
            return False
        return True

    def _loaded(self) -> ec.EllipticCurvePublicKey:
        key = serialization.load_ssh_public_key(self.text.encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - for the type checker
        return key


def public_half(private: ec.EllipticCurvePrivateKey) -> NodePublicKey:
    """Return the public key of a private one."""
    return _public(private.public_key())


def sign(private: ec.EllipticCurvePrivateKey, statement: Statement) -> bytes:
    """Return a signature (DER) of a statement, whose first text must name its protocol."""
    return private.sign(_encoded(statement), _ALGORITHM)


def load_private(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a participant's private key, OpenSSH or PEM format, without a passphrase.

    Raises:
        ConfigError: It is missing, open to others, or no P-384 key.
    """
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            content = stream.read(LARGEST_FILE + 1) if stat.S_ISREG(mode) else b""
    except (OSError, ValueError):  # ValueError: a NUL in the name
        raise ConfigError(f"{path}: the private key cannot be read") from None
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others; say: chmod 600 {path}")
    openssh = content.startswith(b"-----BEGIN OPENSSH")
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        key = load(content, None)
    except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _is_p384(key):
        raise ConfigError(
            f"{path}: no P-384 private key in OpenSSH or PEM format without a passphrase"
        )
    return key


def _load_public(content: bytes) -> object:
    if len(content) > LARGEST_FILE:
        raise ValueError("too long for a key")
    if content.startswith(b"-----BEGIN PUBLIC KEY-----"):
        return serialization.load_pem_public_key(content)
    if b"\n" in content:
        raise ValueError("more than one key")
    return serialization.load_ssh_public_key(content)


def _is_p384(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> bool:
    return isinstance(key.curve, ec.SECP384R1)


def _public(key: ec.EllipticCurvePublicKey) -> NodePublicKey:
    encoding, kind = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return NodePublicKey(key.public_bytes(encoding, kind).decode("ascii"))


def _encoded(statement: Statement) -> bytes:
    # JSON of a list of texts: no two statements give the same bytes.
    return json.dumps(list(statement)).encode()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode().rstrip("=")
