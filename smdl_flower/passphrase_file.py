"""A file of any size that only a passphrase opens.

The key is scrypt of the passphrase and a random salt, so it is another one for each file. The
content is cut into pieces of 1 MiB, each sealed with AES-256-GCM under a nonce of its number and
whether it is the last one (the STREAM construction: Hoang, Reyhanitabar, Rogaway, Vizar, CRYPTO
2015). So pieces cannot be changed, swapped, left out or cut off at the end without notice, and what
was read is authentic before all of it was read.
"""

import os
import secrets
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from smdl_flower import keyfile
from smdl_flower.errors import ConfigError, HomeError, IntegrityError

PIECE = 1 << 20
_SALT, _TAG = 16, 16


class Writer:
    """Seals what is written to it; :meth:`close` must be called, or the file does not open.

    Args:
        stream: Where it goes.
        magic: What the file begins with; authenticated.
        passphrase: That is to open it.

    Raises:
        ConfigError: The passphrase is empty.

    Example:
        >>> import io, tempfile
        >>> path = Path(tempfile.mkdtemp()) / "sealed"
        >>> with path.open("wb") as stream:
        ...     writer = Writer(stream, b"example/1", "words")
        ...     writer.write(b"of any length")
        ...     writer.close()
        >>> with path.open("rb") as stream:
        ...     Reader(stream, path, b"example/1", "words").read(13)
        b'of any length'
    """

    def __init__(self, stream: BinaryIO, magic: bytes, passphrase: str) -> None:
        if not passphrase:
            raise ConfigError("the passphrase is empty; whoever finds the file could open it")
        salt = secrets.token_bytes(_SALT)
        self._stream, self._header = stream, magic + salt
        self._cipher = AESGCM(keyfile.stretch(passphrase, salt))
        self._number, self._waiting = 0, bytearray()
        stream.write(self._header)

    def write(self, content: bytes) -> None:
        """Add to the content."""
        self._waiting += content
        while len(self._waiting) > PIECE:  # what may be the last piece waits
            self._seal(bytes(self._waiting[:PIECE]), last=False)
            del self._waiting[:PIECE]

    def close(self) -> None:
        """Write the last piece."""
        self._seal(bytes(self._waiting), last=True)

    def _seal(self, piece: bytes, *, last: bool) -> None:
        nonce = _nonce(self._number, last=last)
        self._stream.write(self._cipher.encrypt(nonce, piece, self._header))
        self._number += 1


class Reader:
    """Reads back what a :class:`Writer` sealed; the file may be hostile.

    Args:
        stream: Of the file, at its start.
        path: For messages.
        magic: What the file must begin with.
        passphrase: That opens it.

    Raises:
        IntegrityError: It is no such file, or cut off.
        HomeError: The passphrase is wrong (or the first piece was altered).
    """

    def __init__(self, stream: BinaryIO, path: Path, magic: bytes, passphrase: str) -> None:
        self._stream, self._path = stream, path
        self._header = stream.read(len(magic) + _SALT)
        if len(self._header) < len(magic) + _SALT or not self._header.startswith(magic):
            raise IntegrityError(f"{path}: not a file that begins with {magic!r}")
        left = os.fstat(stream.fileno()).st_size - len(self._header)
        pieces = -(-left // (PIECE + _TAG))
        self._cipher = AESGCM(keyfile.stretch(passphrase, self._header[-_SALT:]))
        self._number, self._pieces, self._content = 0, pieces, b""
        self.left = left - pieces * _TAG
        if self.left < 0 or pieces == 0:
            raise self._altered()
        self._content = self._open()

    def read(self, size: int) -> bytes:
        """Return the next bytes.

        Raises:
            IntegrityError: There are fewer, or the file was altered.
        """
        if size > self.left:
            raise self._altered()
        parts, missing = [], size
        while missing:
            if not self._content:
                self._content = self._open()
            part, self._content = self._content[:missing], self._content[missing:]
            parts.append(part)
            missing -= len(part)
        self.left -= size
        return b"".join(parts)

    def _open(self) -> bytes:
        sealed = self._stream.read(PIECE + _TAG)
        nonce = _nonce(self._number, last=self._number == self._pieces - 1)
        try:
            piece = self._cipher.decrypt(nonce, sealed, self._header)
        except (InvalidTag, ValueError):
            if self._number == 0:
                raise HomeError(
                    f"{self._path}: wrong passphrase, or the file was altered or cut off"
                ) from None
            raise self._altered() from None
        self._number += 1
        return piece

    def _altered(self) -> IntegrityError:
        return IntegrityError(f"{self._path}: altered or cut off; use another backup")


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
