"""Credentials come from a private file and are quoted nowhere."""

import pytest

from smdl_flower.errors import ConfigError, MissingFileError
from smdl_flower.interface import headers


def write(path, content: bytes, mode: int = 0o600):
    path.touch()
    path.chmod(mode)
    path.write_bytes(content)
    return path


def test_headers_are_read_from_a_private_file(tmp_path):
    path = write(tmp_path / "h", b"Authorization: Bearer s3cret\r\n\nX-Api-Key:  a:b \n")
    assert headers.read(path) == {"Authorization": "Bearer s3cret", "X-Api-Key": "a:b"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path, mode):
    with pytest.raises(ConfigError, match="chmod 600"):
        headers.read(write(tmp_path / "h", b"A: s3cret", mode))


@pytest.mark.parametrize(
    "line",
    [
        b"s3cret",
        b": s3cret",
        b"A B: s3cret",
        b"A:",
        b"A: s3cret\x00",
        "A: s3cret\N{LATIN SMALL LETTER A WITH DIAERESIS}".encode(),
        b"Host: s3cret",
        b"content-length: s3cret",
        b"Transfer-Encoding: s3cret",
        b"Accept-Encoding: s3cret",
        b"A: s3cret\na: s3cret",
    ],
)
def test_a_line_that_is_no_header_is_refused_without_being_quoted(tmp_path, line):
    with pytest.raises(ConfigError, match="line") as caught:
        headers.read(write(tmp_path / "h", line))
    assert "s3cret" not in str(caught.value)


def test_what_is_no_small_file_is_refused(tmp_path):
    with pytest.raises(MissingFileError):
        headers.read(tmp_path / "missing")
    with pytest.raises(ConfigError, match="no file"):
        headers.read(tmp_path)
    with pytest.raises(ConfigError, match="no file"):
        headers.read(write(tmp_path / "h", b"A: b\n" * 20_000))
