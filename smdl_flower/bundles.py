"""OpenSSF model-signing bundles: customers check what they got with a public tool.

``model_signing verify key PATH --signature PATH.sig --public_key owner.pem`` (package
``model-signing``, v1) recomputes the SHA-256 of every file and checks one ECDSA signature of an
in-toto statement about them in a DSSE envelope, as Sigstore's bundle format says. Signing is
offline, with a key of the owner's: no Sigstore account, certificate or log is involved.

A bundle says that a file is as the owner made it. It says nothing about fingerprints, and being
the customer's to check, it is not what a judge relies on (:mod:`smdl_flower.commitments`).
"""

import hashlib
import secrets
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smdl_flower import files
from smdl_flower.errors import ConfigError, MissingFileError

SUFFIX = ".sig"
_CURVE = ec.SECP256R1()
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of its group


def signature_of(path: Path) -> Path:
    """Return where the signature of a file or folder is."""
    return path.with_name(path.name + SUFFIX)


def require_installed() -> ModuleType:
    """Return the package's module that signs.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from model_signing import signing  # noqa: PLC0415 - an extra, and two seconds
    except ImportError as error:
        raise ConfigError(
            f"signing needs a package that is not installed ({error.name}); say: pip install "
            "'smdl-flower[model-signing]'"
        ) from None
    return signing


@dataclass(frozen=True)
class BundleKey:
    """A P-256 key that signs bundles.

    Attributes:
        secret: 64 bytes; the private number is their value modulo the group's order less one, plus
            one (FIPS 186-5, A.2.1: 64 bits more than the order has would be enough).

    Example:
        >>> BundleKey(bytes(64)).public_pem.splitlines()[0]
        b'-----BEGIN PUBLIC KEY-----'
    """

    secret: bytes = field(repr=False)

    @property
    def public_pem(self) -> bytes:
        """The half that customers check with, as the tool reads it."""
        return self._private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def public_id(self) -> str:
        """SHA-256 of that, hexadecimal: the tool's hint, and what commitments say of it."""
        return hashlib.sha256(self.public_pem).hexdigest()

    def sign(self, path: Path) -> Path:
        """Sign a file or folder, and return where the signature is: beside it, with :data:`SUFFIX`.

        Raises:
            MissingFileError: It is not there.
            OutputExistsError: There is a signature already.
            ConfigError: The package ``model-signing`` is not installed, or the folder cannot be
                signed (it holds links, say).
        """
        signature = signature_of(path)
        if not path.exists():
            raise MissingFileError(f"{path} is not there; name a copy or an evidence folder")
        files.refuse_to_overwrite(signature)
        signing = require_installed()
        with tempfile.TemporaryDirectory() as folder:
            # The package reads keys from files: this one opens with a password that no file has.
            password = secrets.token_bytes(32).hex().encode()
            key, draft = Path(folder, "key.pem"), Path(folder, "signature")
            files.write(key, self._encrypted(password))
            config = signing.Config().use_elliptic_key_signer(private_key=key, password=password)
            try:
                config.sign(path, draft)
            except (ValueError, OSError) as error:
                raise ConfigError(f"{path} cannot be signed: {error}") from None
            files.write(signature, draft.read_bytes(), replace=False)
        return signature

    @property
    def _private(self) -> ec.EllipticCurvePrivateKey:
        number = int.from_bytes(self.secret, "big") % (_ORDER - 1) + 1
        return ec.derive_private_key(number, _CURVE)

    def _encrypted(self, password: bytes) -> bytes:
        return self._private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password),
        )
