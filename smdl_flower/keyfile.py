"""The master keys at rest: a private file, encrypted if the owner gives a passphrase.

The newest key is the last; the others are those it was rotated from. A file with one key is of the
format that version 0.1.0 knows.

Encryption is AES-256-GCM under a key from scrypt (RFC 7914; n = 2^17, r = 8, p = 1). The format
identifier is authenticated, so a file of another version cannot be passed off as this one.
"""

import base64
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from smdl_flower import files
from smdl_flower.errors import ConfigError, HomeError, IntegrityError
from smdl_flower.fingerprint.keys import KEY_BYTES, OwnerKey

FORMAT = "smdl-key/1"
RING_FORMAT = "smdl-key/2"  # several keys
MOST_KEYS = 50
SCRYPT_COST = 2**17
_LARGEST_FILE = 4096
_TAG = 16  # bytes of AES-GCM


def save(path: Path, keys: Sequence[OwnerKey], passphrase: str | None) -> None:
    """Write a key file, mode 0600; never over another one.

    Raises:
        OutputExistsError: There is a file already.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "master.key"
        >>> save(path, [OwnerKey(bytes(32))], passphrase=None)
        >>> load(path, passphrase=None) == (OwnerKey(bytes(32)),)
        True
    """
    files.write(path, _content(keys, passphrase), replace=False)


def replace(path: Path, keys: Sequence[OwnerKey], passphrase: str | None) -> None:
    """Put another key file in the place of one; a crash leaves the old one or the new one, whole.

    What is to be written is opened first: without its keys nothing can be traced any more.

    Raises:
        ConfigError: There are too many keys.
    """
    content = _content(keys, passphrase)
    if _keys(_parse(path, content), path, passphrase) != tuple(keys):
        raise AssertionError("a key file does not open to what was put into it")
    files.write(path, content)


def load(path: Path, passphrase: str | None) -> tuple[OwnerKey, ...]:
    """Read a key file; the newest key is the last.

    Raises:
        HomeError: The file is missing or readable by others, or the passphrase is missing or wrong.
        IntegrityError: The file is damaged.
    """
    return _keys(_read(path), path, passphrase)


def stretch(passphrase: str, salt: bytes) -> bytes:
    """Return the key that a passphrase and a salt of 16 bytes give, :data:`KEY_BYTES` long."""
    return Scrypt(salt=salt, length=KEY_BYTES, n=SCRYPT_COST, r=8, p=1).derive(passphrase.encode())


def is_encrypted(path: Path) -> bool:
    """Whether opening this key file takes a passphrase."""
    return "key" not in _read(path)


def _content(keys: Sequence[OwnerKey], passphrase: str | None) -> bytes:
    if not 1 <= len(keys) <= MOST_KEYS:
        raise ConfigError(f"{len(keys)} master keys; a home holds at most {MOST_KEYS}")
    name = FORMAT if len(keys) == 1 else RING_FORMAT
    secret = b"".join(key.secret for key in keys)
    document: dict[str, Any] = {"format": name}
    if passphrase is None:
        document["key"] = _encode(secret)
    else:
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        sealed = AESGCM(stretch(passphrase, salt)).encrypt(nonce, secret, name.encode())
        document |= {"salt": _encode(salt), "nonce": _encode(nonce), "sealed": _encode(sealed)}
    return json.dumps(document).encode()


def _keys(document: dict[str, Any], path: Path, passphrase: str | None) -> tuple[OwnerKey, ...]:
    try:
        if "key" in document:
            return _split(document, _decode(document["key"]))
        salt, nonce = _decode(document["salt"]), _decode(document["nonce"])
        sealed = _decode(document["sealed"])
        if (len(salt), len(nonce)) != (16, 12):
            raise ValueError("lengths")
        _split(document, sealed[_TAG:])  # as long as some keys
    except (KeyError, TypeError, ValueError):
        name = document["format"]
        raise IntegrityError(f"{path}: not a {name} file; restore it from your backup") from None
    if passphrase is None:
        raise HomeError(f"{path} is encrypted; give --passphrase-file or type the passphrase")
    try:
        name = document["format"].encode()
        return _split(document, AESGCM(stretch(passphrase, salt)).decrypt(nonce, sealed, name))
    except InvalidTag:
        raise HomeError(f"{path}: wrong passphrase (or a damaged file); try again") from None


def _split(document: dict[str, Any], secret: bytes) -> tuple[OwnerKey, ...]:
    """The keys that were written one behind the other."""
    count = len(secret) // KEY_BYTES
    if (document["format"] == FORMAT and count != 1) or not 1 <= count <= MOST_KEYS:
        raise ValueError("number of keys")
    parts = (secret[i : i + KEY_BYTES] for i in range(0, len(secret), KEY_BYTES))
    return tuple(OwnerKey(part) for part in parts)  # refuses an incomplete one


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_mode & 0o077:
            raise HomeError(f"{path} can be read by others; say: chmod 600 {path}")
        content = path.read_bytes()[: _LARGEST_FILE + 1]
    except OSError as error:
        raise HomeError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from None
    return _parse(path, content)


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("format") not in (FORMAT, RING_FORMAT):
        raise IntegrityError(
            f"{path}: not a {FORMAT} or {RING_FORMAT} file; restore it from your backup"
        )
    return document


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
