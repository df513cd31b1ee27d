"""Archives: what zipfile reads is read the same, what lies about its size or names is refused."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects import archive
from smdl_flower.suspects.archive import open_archive


def zipped(
    entries: dict[str, bytes], method: int = zipfile.ZIP_STORED, comment: bytes = b""
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        file.comment = comment
        for name, content in entries.items():
            file.writestr(name, content)
    return stream.getvalue()


names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=9)


@given(
    entries=st.dictionaries(names, st.binary(max_size=200), max_size=5),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    comment=st.binary(max_size=30),
)
def test_archives_are_read_as_zipfile_writes_them(entries, method, comment):
    opened = open_archive(memoryview(zipped(entries, method, comment)))
    assert {name: bytes(opened.read(name)) for name in opened.entries} == entries


def test_large_sizes_in_extra_fields_are_read(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    content = zipped({"a": b"x" * 100, "b": b"y" * 20})
    assert b"PK\x06\x06" in content
    opened = open_archive(memoryview(content))
    assert bytes(opened.read("b")) == b"y" * 20


def test_a_missing_entry_and_one_over_the_limit_are_named():
    opened = open_archive(memoryview(zipped({"a": b"12345"})))
    with pytest.raises(SuspectFileError, match="without 'b'"):
        opened.read("b")
    with pytest.raises(SuspectFileError, match="claims 5 bytes, at most 4"):
        opened.read("a", 4)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "a\\b", "..", "a\0b", ""])
def test_names_that_are_no_plain_path_are_refused(name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("PLACE", b"1")
    content = stream.getvalue().replace(b"PLACE", name.encode().ljust(5, b"/")[:5])
    if len(name) > 5 or name == "":
        content = _with_name(name)
    with pytest.raises(SuspectFileError, match="leaves its directory"):
        open_archive(memoryview(content))


def _with_name(name: str) -> bytes:
    """zipfile changes some names: this is written by hand."""
    raw = name.encode()
    local = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 0, 0, 1, 1, len(raw), 0) + raw
    central = b"PK\x01\x02" + struct.pack(
        *("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 0, 0, 1, 1, len(raw), 0, 0, 0, 0, 0, 0)
    )
    central += raw
    body = local + b"1"
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(body), 0)
    return body + central + end


def test_a_name_twice_is_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a", b"2")
    with pytest.raises(SuspectFileError, match="twice"):
        open_archive(memoryview(stream.getvalue()))


def test_a_bomb_is_refused_before_it_is_inflated():
    content = zipped({"a": bytes(20 << 20)}, zipfile.ZIP_DEFLATED)
    assert len(content) < 30_000
    with pytest.raises(SuspectFileError, match="claims to inflate"):
        open_archive(memoryview(content)).read("a")


def test_an_entry_that_is_larger_than_it_claims_is_not_inflated_further():
    content = bytearray(zipped({"a": b"x" * 1000}, zipfile.ZIP_DEFLATED))
    at = content.rfind(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 10)
    with pytest.raises(SuspectFileError, match="not of the size"):
        open_archive(memoryview(content)).read("a")


def test_sparse_weights_stay_below_the_limit():
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(1_000_000, dtype=np.float32)
    pruned = (weights * (rng.random(len(weights)) < 0.01)).tobytes()
    content = zipped({"a": pruned}, zipfile.ZIP_DEFLATED)
    assert bytes(open_archive(memoryview(content)).read("a")) == pruned


@pytest.mark.parametrize(
    ("at", "value"),
    [(8, b"\x01\0"), (10, b"\x0c\0"), (20, b"\x05\0\0\0"), (42, b"\xff\xff\0\0"), (0, b"XX\1\2")],
    ids=["encrypted", "bzip2", "sizes differ", "elsewhere", "no entry"],
)
def test_entries_that_are_not_as_they_should_be_are_refused(at, value):
    content = bytearray(zipped({"a": b"12345678"}))
    start = content.rfind(b"PK\x01\x02") + at
    content[start : start + len(value)] = value
    with pytest.raises(SuspectFileError):
        open_archive(memoryview(content)).read("a")


def test_an_archive_of_too_many_entries_is_refused(monkeypatch):
    monkeypatch.setattr(archive, "ENTRIES", 3)
    with pytest.raises(SuspectFileError, match="4 entries"):
        open_archive(memoryview(zipped({str(i): b"" for i in range(4)})))


@pytest.mark.parametrize("length", [0, 3, 22, 60, 100])
def test_a_truncated_archive_is_refused(length):
    with pytest.raises(SuspectFileError):
        open_archive(memoryview(zipped({"a": b"1" * 50})[:length]))
