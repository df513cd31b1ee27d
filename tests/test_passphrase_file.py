"""A sealed file opens whole and with its passphrase, or not at all."""

import io
from pathlib import Path

import pytest

from smdl_flower import keyfile, passphrase_file
from smdl_flower.errors import ConfigError, HomeError, IntegrityError, SmdlError
from smdl_flower.passphrase_file import PIECE, Reader, Writer

MAGIC = b"example/1\n"
HEADER = len(MAGIC) + 16


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyfile, "SCRYPT_COST", 2**4)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(passphrase_file, "PIECE", 32)
    return 32


def sealed(content: bytes, words: str = "words") -> bytes:
    stream = io.BytesIO()
    writer = Writer(stream, MAGIC, words)
    for start in range(0, len(content), 7):
        writer.write(content[start : start + 7])
    writer.close()
    return stream.getvalue()


def opened(path: Path, data: bytes, size: int, words: str = "words") -> bytes:
    path.write_bytes(data)
    with path.open("rb") as stream:
        reader = Reader(stream, path, MAGIC, words)
        if reader.left != size:
            raise IntegrityError(f"{reader.left} bytes")
        return reader.read(size)


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64, 65, 200])
def test_what_was_written_is_read(tmp_path: Path, small_pieces: int, size: int) -> None:
    content = bytes(range(200))[:size]
    data = sealed(content)
    assert content not in data or size < 2
    assert opened(tmp_path / "f", data, size) == content
    assert sealed(content) != data  # another salt


def test_pieces_of_the_real_size(tmp_path: Path) -> None:
    content = bytes(PIECE + 5)
    assert opened(tmp_path / "f", sealed(content), len(content)) == content


def test_every_changed_byte_and_every_length_is_refused(tmp_path: Path, small_pieces: int) -> None:
    content = bytes(range(100))
    data = sealed(content)
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises((IntegrityError, HomeError)):
            opened(tmp_path / "f", changed, len(content))
    for length in range(len(data)):
        with pytest.raises((IntegrityError, HomeError)):
            opened(tmp_path / "f", data[:length], len(content))
    with pytest.raises(SmdlError):
        opened(tmp_path / "f", data + b"x", len(content))


def test_pieces_cannot_be_swapped_repeated_or_left_out(tmp_path: Path, small_pieces: int) -> None:
    content = bytes(128)
    data = sealed(content)
    pieces = [data[i : i + 48] for i in range(HEADER, len(data), 48)]
    assert len(pieces) == 4
    for order in ([1, 0, 2, 3], [0, 2, 1, 3], [0, 1, 1, 3], [0, 1, 3], [0, 1, 2], [3]):
        changed = data[:HEADER] + b"".join(pieces[i] for i in order)
        with pytest.raises(SmdlError):
            opened(tmp_path / "f", changed, 32 * len(order))


def test_a_wrong_passphrase_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(HomeError, match="wrong passphrase"):
        opened(tmp_path / "f", sealed(b"content"), 7, "Words")
    with pytest.raises(ConfigError, match="empty"):
        sealed(b"content", "")
