"""A model in one piece: nothing changes for who reads it, and whoever sends another is refused."""

import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from smdl_flower.errors import FederationError, SuspectFileError
from smdl_flower.flower import blobs, inline, packing, records
from smdl_flower.flower.blobs import BlobError
from tests.flower.test_strategy import MODEL, honest, run

GIGABYTE = 1 << 30
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
TENSORS = arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=3), elements=FINITE)


def packed_bytes(content: bytes) -> ArrayRecord:
    return blobs.to_record(packing.PACKED, content)


@given(st.dictionaries(st.text(min_size=1, max_size=20).filter("__metadata__".__ne__), TENSORS))
def test_what_is_packed_comes_out_again(model):
    record = packing.pack(records.to_record(model))
    assert list(record) == [packing.PACKED]
    back = records.from_record(packing.unpack(record, most=1 << 20))
    assert list(back) == sorted(model)
    for name, array in model.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].shape == array.shape


def test_a_message_of_many_tensors_is_few_objects():
    many = {f"layer{i:03}.weight": np.full((3, 3), i, np.float32) for i in range(300)}
    plain = records.to_record(many)
    assert len(get_all_nested_objects(plain)) > 600  # the control: two for each tensor
    assert len(get_all_nested_objects(packing.pack(plain))) == 3


# ---------------------------------------------------------------------------- what is no model

LETTER = packing.pack(records.to_record(MODEL))[packing.PACKED]
NAN = packed_bytes(safetensors.numpy.save({"w": np.array([np.nan], np.float32)}))
WRONG = {
    "no such array": ArrayRecord(),
    "one more array": ArrayRecord({packing.PACKED: LETTER, "x": LETTER}),
    "numbers": ArrayRecord({packing.PACKED: Array(np.ones(100))}),
    "two dimensions": ArrayRecord({packing.PACKED: Array(np.ones((4, 4), np.uint8))}),
    "a pickle": ArrayRecord({packing.PACKED: Array("object", (1,), "numpy.ndarray", b"\x80\x04N")}),
    "cut off": packed_bytes(LETTER.data[128:-1]),
    "longer": packed_bytes(LETTER.data[128:] + b"x"),
    "empty": packed_bytes(b""),
    "NaN": NAN,
    "half precision": packed_bytes(safetensors.numpy.save({"w": np.ones(500, np.float16)})),
    "whole numbers": packed_bytes(safetensors.numpy.save({"w": np.ones(500, np.int32)})),
    "a claim": packed_bytes((10**6).to_bytes(8, "little") + b"{}"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_packed_model_is_refused(what):
    with pytest.raises((BlobError, SuspectFileError)):
        packing.unpack(WRONG[what], most=10_000)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_are_a_model(content):
    with pytest.raises(SuspectFileError):  # nothing this short and random is one
        packing.unpack(packed_bytes(content), most=10_000)


def test_a_gigabyte_is_refused_without_being_touched():
    record = ArrayRecord({packing.PACKED: Array("uint8", (1,), blobs.NUMPY, bytes(GIGABYTE))})
    tracemalloc.start()
    try:
        with pytest.raises(BlobError, match="at most 1,000"):
            packing.unpack(record, most=1000)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# -------------------------------------------------------------------------- between both ends


def over_packed(clients, changes=(None, None, None)):
    """A grid of participants that unpack and pack, some of whose replies are changed on the way."""
    inline.allow_messages()
    seen = []

    def app(message, context):
        number = context.node_id - 1
        seen.append(message.content)

        def client(question, _):
            assert set(question.content.array_records[records.ARRAYS]) == set(MODEL)
            return clients[number](question, number)

        reply = packing.in_one_piece(message, context, client)
        seen.append(reply.content if reply.has_content() else None)
        change = changes[number]
        return change(reply, message) if change else reply

    grid = inline.InlineGrid(app, len(clients), {})
    packing.pack_in_transit(grid)
    return grid, seen


def test_strategy_and_participants_see_tensors_the_way_between_them_bytes(issuer):
    grid, seen = over_packed([honest] * 3)
    issued = run(grid, issuer, rounds=2, min_replies=3)
    plain = run(inline.InlineGrid(lambda m, c: honest(m, c.node_id - 1), 3, {}), issuer, rounds=2)
    assert seen
    for content in seen:
        assert list(content.array_records[records.ARRAYS]) == [packing.PACKED]
    for name, array in records.from_record(plain.arrays).items():
        np.testing.assert_array_equal(records.from_record(issued.arrays)[name], array)


def with_arrays(arrays):
    def change(reply, _):
        reply.content = RecordDict({**reply.content, records.ARRAYS: arrays})
        return reply

    return change


def large(reply, _):
    return with_arrays(packed_bytes(bytes(2 << 20)))(reply, _)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_arrays(NAN), "NaN"),
        (large, "at most"),
        (with_arrays(packed_bytes(b"{}")), "not a safetensors file"),
        (with_arrays(packing.pack(records.to_record({"x": np.ones(3, np.float32)}))), "other tens"),
        (with_arrays(ArrayRecord({"x": Array(np.ones(3))})), "other tensors"),
        (lambda _, question: Message(Error(2, "internal"), reply_to=question), "internal"),
    ],
)
def test_a_reply_that_cannot_be_unpacked_is_one_participants_affair(change, reason, issuer):
    grid, _ = over_packed([honest] * 3, (None, change, None))
    run(grid, issuer, rounds=1, min_replies=2)
    grid, _ = over_packed([honest] * 3, (None, change, None))
    with pytest.raises(FederationError, match=f"node 2: .*{reason}"):
        run(grid, issuer, rounds=1, min_replies=3)


def test_messages_without_a_model_pass_as_they_are():
    inline.allow_messages()
    seen = []

    def app(message, context):
        seen.append(message.content)
        answer = RecordDict({"more": ConfigRecord({"b": 2})})
        return packing.in_one_piece(message, context, lambda m, _: Message(answer, reply_to=m))

    grid = inline.InlineGrid(app, 1, {})
    packing.pack_in_transit(grid)
    question = Message(RecordDict({"some": ConfigRecord({"a": 1})}), 1, "query.x")
    (reply,) = grid.send_and_receive([question])
    assert dict(reply.content) == {"more": ConfigRecord({"b": 2})}
    assert seen == [question.content]
