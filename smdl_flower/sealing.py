"""Seal bytes for the holder of one key: whoever stores or forwards them learns their length only.

HPKE (RFC 9180), base mode, of X25519, HKDF-SHA256 and AES-256-GCM, as ``cryptography`` implements
it. A sealed text opens under the context it was sealed for and no other, so it cannot be passed off
as an answer to another question. Base mode does not say who sealed: where that matters, a
signature does (:mod:`smdl_flower.delivery`).
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from smdl_flower.errors import CapacityError, ConfigError, SealError

KEY_BYTES = 32
OVERHEAD = KEY_BYTES + 16  # the sender's one-time public key and the tag
LARGEST = 2**31 - 1 - OVERHEAD  # what cryptography encrypts at once

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_CHECK_DIGITS = 8

Context = Sequence[str]


@dataclass(frozen=True)
class SealingKey:
    """A private key that opens what was sealed for it.

    Example:
        >>> key = SealingKey.generate()
        >>> sealed = seal(b"w0", key.public, ["example", "first"])
        >>> key.open(sealed, ["example", "first"])
        b'w0'
        >>> key.open(sealed, ["example", "second"])
        Traceback (most recent call last):
        ...
        smdl_flower.errors.SealError: cannot be opened: altered, cut off, or sealed for another ...
    """

    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "SealingKey":
        """Return a new key from the operating system's entropy."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @property
    def public(self) -> bytes:
        """The half to seal for: 32 bytes."""
        return self._private().public_key().public_bytes_raw()

    def open(self, sealed: bytes, context: Context) -> bytes:
        """Return what was sealed.

        Raises:
            SealError: It was altered or cut off, or sealed for another key or context.
        """
        try:
            return _SUITE.decrypt(sealed, self._private(), _info(context))
        except (InvalidTag, ValueError):
            raise SealError(
                "cannot be opened: altered, cut off, or sealed for another key or purpose"
            ) from None

    def _private(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.secret)


def seal(content: bytes, public: bytes, context: Context) -> bytes:
    """Seal bytes for the holder of a key.

    Args:
        content: At most :data:`LARGEST` bytes.
        public: The holder's :attr:`SealingKey.public`; may be hostile.
        context: Texts that whoever opens must give as well.

    Returns:
        :data:`OVERHEAD` bytes more than ``content``.

    Raises:
        CapacityError: The content is too long.
        SealError: That is no key one can seal for.
    """
    if len(content) > LARGEST:
        raise CapacityError(f"{len(content):,} bytes; at most {LARGEST:,} can be sealed at once")
    try:
        key = X25519PublicKey.from_public_bytes(public)
        return _SUITE.encrypt(content, key, _info(context))
    except ValueError:  # a wrong length, or a point of low order: everybody would have the secret
        raise SealError("cannot be sealed: not a usable X25519 public key") from None


def to_text(public: bytes) -> str:
    """Return a public key as people copy it: 64 hexadecimal digits, a dash, 8 check digits.

    Any 32 bytes are an X25519 key: without check digits a slip would seal for nobody.

    Example:
        >>> to_text(bytes(32))
        '0000000000000000000000000000000000000000000000000000000000000000-...'
        >>> from_text(to_text(bytes(32))) == bytes(32)
        True
    """
    return f"{public.hex()}-{_check_digits(public)}"


def from_text(text: str) -> bytes:
    """Read back what :func:`to_text` wrote.

    Raises:
        ConfigError: It is not complete, or a digit is wrong.
    """
    digits, _, check = text.partition("-")
    try:
        public = bytes.fromhex(digits)
    except ValueError:
        public = b""
    if len(public) != KEY_BYTES or check != _check_digits(public) or text != to_text(public):
        raise ConfigError(
            f"{text[:80]!r} is no sealing key: expected 64 hexadecimal digits, a dash and 8 check "
            "digits, as smdl sealing-key prints them"
        )
    return public


def _check_digits(public: bytes) -> str:
    return hashlib.sha256(b"smdl-sealing-key" + public).hexdigest()[:_CHECK_DIGITS]


def _info(context: Context) -> bytes:
    # JSON of a list of texts: no two contexts give the same bytes.
    return json.dumps(list(context)).encode()
