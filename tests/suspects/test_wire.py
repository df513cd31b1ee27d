"""Protocol buffers on the wire, against Google's own writer and against damage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smdl_flower.errors import SuspectFileError
from smdl_flower.suspects import wire
from tests.suspects.protobuf import field, varint


@given(numbers=st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_numbers_come_back(numbers):
    packed = b"".join(map(varint, numbers))
    assert wire.varints(memoryview(packed)) == numbers
    assert wire.repeated([memoryview(packed), 7]) == [*numbers, 7]


@given(
    parts=st.lists(
        st.tuples(st.integers(1, 2**28), st.integers(0, 2**64 - 1) | st.binary(max_size=20)),
        max_size=9,
    )
)
def test_fields_come_back_in_order(parts):
    message = b"".join(field(number, value) for number, value in parts)
    found = [
        (n, v if isinstance(v, int) else bytes(v)) for n, v in wire.fields(memoryview(message))
    ]
    assert found == parts


@given(content=st.binary(max_size=60))
def test_any_bytes_end_in_fields_or_our_own_error(content):
    try:
        found = list(wire.fields(memoryview(content)))
    except SuspectFileError:
        return
    assert sum(len(v) for _, v in found if not isinstance(v, int)) <= len(content)


@pytest.mark.parametrize(
    "message",
    [b"\x80", b"\xff" * 11, b"\x0a", b"\x0a\x05ab", b"\x0b", b"\x0c", b"\x0d\x00", b"\x09\x00"],
)
def test_what_is_cut_off_or_of_no_known_kind_is_refused(message):
    with pytest.raises(SuspectFileError):
        list(wire.fields(memoryview(message)))


def test_numbers_are_narrowed_and_texts_repaired():
    assert bytes(wire.narrowed([1, 2**64 - 1], 1)) == b"\x01\xff"
    assert wire.text(memoryview(b"a\xff")) == "a\ufffd"
    assert wire.text(3) == ""
    assert bytes(wire.fixed([memoryview(b"ab"), memoryview(b"cd"), 3])) == b"abcd"
