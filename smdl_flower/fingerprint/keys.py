"""Every secret of an owner, derived from one 32-byte master key.

master --HKDF, salt = SHA-256 of w0--> campaign key --HKDF, info = customer--> customer key
       --HKDF, info = label--> AES-256-CTR key stream.

A campaign key exists only after its base model w0 is fixed (assumption A2), and a customer's key
can be opened to a judge alone. The customer's *name* is the derivation label, so a registry that
swaps names cannot shift an accusation. HKDF: RFC 5869; CTR: NIST SP 800-38A. No library random
generator is involved: their streams are neither stable over versions nor secret.
"""

import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from smdl_flower.bundles import BundleKey
from smdl_flower.sealing import SealingKey
from smdl_flower.signing import SigningKey

KEY_BYTES = 32
_FROM_ZERO = modes.CTR(bytes(16))


class KeyStream:
    """Endless pseudo-random words of one key and label, read in order.

    Example:
        >>> owner = OwnerKey(bytes(32))
        >>> once = owner.campaign("00" * 32).stream("example").uint16(4)
        >>> again = owner.campaign("00" * 32).stream("example")
        >>> once.tolist() == [int(again.uint16(1)[0]) for _ in range(4)]
        True
    """

    def __init__(self, key: bytes) -> None:
        # A fixed initial counter is safe: each key is used for one stream only.
        self._cipher = Cipher(algorithms.AES256(key), _FROM_ZERO).encryptor()

    def uint16(self, count: int) -> NDArray[np.uint16]:
        """Return the next ``count`` 16-bit words, uniform on 0..65535, shape ``(count,)``."""
        return np.frombuffer(self._cipher.update(bytes(2 * count)), dtype="<u2")

    def uint32(self, count: int) -> NDArray[np.uint32]:
        """Return the next ``count`` 32-bit words, shape ``(count,)``."""
        return np.frombuffer(self._cipher.update(bytes(4 * count)), dtype="<u4")


@dataclass(frozen=True)
class CustomerKey:
    """One customer's secret in one campaign: its codeword and carrier follow from it.

    Attributes:
        customer: Name; not secret to the owner.
    """

    customer: str
    secret: bytes = field(repr=False)

    def stream(self, label: str) -> KeyStream:
        """Return this customer's key stream of that label, from its start."""
        return KeyStream(self.open(label))

    def open(self, label: str) -> bytes:
        """Return the secret of one stream; nothing of the customer's others follows from it."""
        return _expand(self.secret, f"stream/{label}")


class Streams(Protocol):
    """Who knows key streams."""

    def stream(self, label: str) -> KeyStream:
        """Return the key stream of a label."""


class CustomerStreams(Streams, Protocol):
    """Who knows some of a customer's key streams."""

    @property
    def customer(self) -> str:
        """The customer's name."""


@dataclass(frozen=True)
class OpenedStreams:
    """Some of a campaign's key streams, opened to a judge; no other secret follows from them.

    Attributes:
        secrets: Of each stream, by label.

    Example:
        >>> campaign = OwnerKey(bytes(32)).campaign("00" * 32)
        >>> opened = campaign.open(["payload"])
        >>> same = opened.stream("payload").uint16(3) == campaign.stream("payload").uint16(3)
        >>> same.all(), opened
        (np.True_, OpenedStreams())
    """

    secrets: Mapping[str, bytes] = field(repr=False)

    def stream(self, label: str) -> KeyStream:
        """Return an opened key stream, from its start.

        Raises:
            KeyError: It was not opened.
        """
        return KeyStream(self.secrets[label])


@dataclass(frozen=True)
class OpenedCustomer:
    """Some of a customer's key streams, opened to a judge, and nothing else of its key.

    Attributes:
        customer: Name.
        streams: That were opened.
    """

    customer: str
    streams: OpenedStreams = field(repr=False)

    def stream(self, label: str) -> KeyStream:
        """Return an opened key stream, from its start.

        Raises:
            KeyError: It was not opened.
        """
        return self.streams.stream(label)


@dataclass(frozen=True)
class CampaignKey:
    """The secret of all copies of one base model."""

    secret: bytes = field(repr=False)

    def open(self, labels: Iterable[str]) -> OpenedStreams:
        """Return what a judge needs to read these key streams, and no other."""
        return OpenedStreams({n: _expand(self.secret, f"stream/{n}") for n in labels})

    def customer(self, name: str) -> CustomerKey:
        """Return a customer's key; it tells nothing about other customers' keys."""
        return CustomerKey(name, _expand(self.secret, f"customer/{name}"))

    def stream(self, label: str) -> KeyStream:
        """Return a key stream shared by all copies of the campaign."""
        return KeyStream(_expand(self.secret, f"stream/{label}"))


@dataclass(frozen=True)
class OwnerKey:
    """The owner's master key.

    Example:
        >>> OwnerKey.generate()
        OwnerKey()
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise ValueError(f"a master key has {KEY_BYTES} bytes, not {len(self.secret)}")

    @classmethod
    def generate(cls) -> "OwnerKey":
        """Return a new key from the operating system's entropy."""
        return cls(secrets.token_bytes(KEY_BYTES))

    def campaign(self, base_digest: str) -> CampaignKey:
        """Return the key of the copies of the base model with this hexadecimal SHA-256."""
        salt = bytes.fromhex(base_digest)
        return CampaignKey(HKDF(SHA256(), KEY_BYTES, salt, b"smdl/1 campaign").derive(self.secret))

    def authenticate(self, purpose: str, message: bytes) -> bytes:
        """Return the 32-byte HMAC-SHA256 of a message, under a key for that purpose only."""
        return hmac.digest(_expand(self.secret, f"mac/{purpose}"), message, "sha256")

    def sealing_key(self) -> SealingKey:
        """Return the key that opens what a server sealed for this owner.

        Derived, so there is no further secret to keep: it is protected, backed up and lost with the
        master key, which could make every copy from the base model in any case.
        """
        return SealingKey(_expand(self.secret, "sealing"))

    def signing_key(self) -> SigningKey:
        """Return the key that signs the owner's statements; derived, like :meth:`sealing_key`."""
        return SigningKey(_expand(self.secret, "signing"))

    def bundle_key(self) -> BundleKey:
        """Return the key that signs model-signing bundles; derived, like :meth:`sealing_key`."""
        halves = (_expand(self.secret, f"model-signing/{half}") for half in ("1", "2"))
        return BundleKey(b"".join(halves))

    def commitment(self) -> str:
        """Return a value, hexadecimal, that binds to this key and does not help to find it."""
        return self.authenticate("commitment", b"").hex()


def _expand(secret: bytes, label: str) -> bytes:
    # HKDF-Expand (RFC 5869, 2.3) for one block of output, which is one HMAC: five times quicker
    # than through objects of the library, for tens of thousands of customers.
    return hmac.digest(secret, f"smdl/1 {label}".encode() + b"\x01", "sha256")
