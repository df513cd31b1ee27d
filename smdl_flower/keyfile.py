"""The master key at rest: a private file, encrypted if the owner gives a passphrase.

Encryption is AES-256-GCM under a key from scrypt (RFC 7914; n = 2^17, r = 8, p = 1). The format
identifier is authenticated, so a file of another version cannot be passed off as this one.
"""

import base64
import json
import os
import secrets
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from smdl_flower import files
from smdl_flower.errors import HomeError, IntegrityError
from smdl_flower.fingerprint.keys import KEY_BYTES, OwnerKey

FORMAT = "smdl-key/1"
SCRYPT_COST = 2**17
_LARGEST_FILE = 4096


def save(path: Path, key: OwnerKey, passphrase: str | None) -> None:
    """Write a key file, mode 0600; never over another one.

    Raises:
        OutputExistsError: There is a file already.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "master.key"
        >>> save(path, OwnerKey(bytes(32)), passphrase=None)
        >>> load(path, passphrase=None) == OwnerKey(bytes(32))
        True
    """
    document: dict[str, Any] = {"format": FORMAT}
    if passphrase is None:
        document["key"] = _encode(key.secret)
    else:
        salt, nonce = secrets.token_bytes(16), secrets.token_bytes(12)
        sealed = AESGCM(_stretch(passphrase, salt)).encrypt(nonce, key.secret, FORMAT.encode())
        document |= {"salt": _encode(salt), "nonce": _encode(nonce), "sealed": _encode(sealed)}
    files.write(path, json.dumps(document).encode(), replace=False)


def load(path: Path, passphrase: str | None) -> OwnerKey:
    """Read a key file.

    Raises:
        HomeError: The file is missing or readable by others, or the passphrase is missing or wrong.
        IntegrityError: The file is damaged.
    """
    document = _read(path)
    try:
        if "key" in document:
            return OwnerKey(_decode(document["key"]))
        salt, nonce = _decode(document["salt"]), _decode(document["nonce"])
        sealed = _decode(document["sealed"])
        if (len(salt), len(nonce), len(sealed)) != (16, 12, KEY_BYTES + 16):
            raise ValueError("lengths")
    except (KeyError, TypeError, ValueError):
        raise IntegrityError(f"{path}: not a {FORMAT} file; restore it from your backup") from None
    if passphrase is None:
        raise HomeError(f"{path} is encrypted; give --passphrase-file or type the passphrase")
    try:
        return OwnerKey(AESGCM(_stretch(passphrase, salt)).decrypt(nonce, sealed, FORMAT.encode()))
    except InvalidTag:
        raise HomeError(f"{path}: wrong passphrase (or a damaged file); try again") from None


def is_encrypted(path: Path) -> bool:
    """Whether opening this key file takes a passphrase."""
    return "key" not in _read(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_mode & 0o077:
            raise HomeError(f"{path} can be read by others; say: chmod 600 {path}")
        content = path.read_bytes()[: _LARGEST_FILE + 1]
    except OSError as error:
        raise HomeError(f"{path}: cannot be read ({os.strerror(error.errno or 0)})") from None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise IntegrityError(f"{path}: not a {FORMAT} file; restore it from your backup")
    return document


def _stretch(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=KEY_BYTES, n=SCRYPT_COST, r=8, p=1).derive(passphrase.encode())


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
