"""A hostile reply is refused before it costs memory; its words reach no terminal as they are."""

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from smdl_flower.flower import inline, records, replies
from smdl_flower.flower.replies import InvalidReplyError

EXPECTED = {"bias": np.zeros(3, np.float32), "weight": np.zeros((2, 3), np.float32)}
CODE = "0" * 64
GIGABYTE = 1 << 30
LEAVES_NO_MORE = 1 << 20  # bytes that a refusal may take


def question() -> Message:
    inline.allow_messages()
    message = Message(RecordDict(), 7, "train")
    message.metadata.__dict__["_message_id"] = "q"
    return message


def parts() -> dict[str, Any]:
    return {
        records.ARRAYS: records.to_record({k: v + 1 for k, v in EXPECTED.items()}),
        records.METRICS: MetricRecord({records.NUM_EXAMPLES: 5, records.TRAIN_LOSS: 1.0}),
        records.PROVENANCE: ConfigRecord(
            {records.PARTITION_ID: "000003", records.CODE_SHA256: CODE}
        ),
    }


def answer(**changes) -> Message:
    return Message(RecordDict({**parts(), **changes}), reply_to=question())


def check(message: Message) -> None:
    replies.check_train_reply(message, EXPECTED, CODE)


def with_array(array: Array) -> Message:
    arrays = ArrayRecord({**parts()[records.ARRAYS], "bias": array})
    return answer(arrays=arrays)


def npy_claiming(shape: tuple[int, ...], dtype: str = "<f4", data: bytes = bytes(12)) -> bytes:
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


def huge_array():
    return with_array(Array("float32", (3,), "numpy.ndarray", bytes(GIGABYTE)))


def huge_text():
    big = ConfigRecord({records.PARTITION_ID: "x" * GIGABYTE, records.CODE_SHA256: CODE})
    return answer(provenance=big)


def huge_bytes():
    return answer(declaration=ConfigRecord({"x": bytes(GIGABYTE)}))


def huge_list():
    numbers = [1.0] * (GIGABYTE // 8)
    metrics = MetricRecord({records.NUM_EXAMPLES: 5})
    metrics.__dict__["_data"][records.TRAIN_LOSS] = numbers  # not checked one by one
    return answer(metrics=metrics)


def huge_reason():
    return Message(Error(2, "no " * (GIGABYTE // 3)), reply_to=question())


def huge_name():
    arrays = ArrayRecord({**parts()[records.ARRAYS], "z" * GIGABYTE: Array(np.zeros(1))})
    return answer(arrays=arrays)


def one_more_record():
    return answer(more=ConfigRecord({"x": bytes(GIGABYTE)}))


HUGE = [huge_array, huge_text, huge_bytes, huge_list, huge_reason, huge_name, one_more_record]


@pytest.mark.parametrize("make", HUGE)
def test_a_gigabyte_is_refused_without_being_touched(make):
    message = make()
    tracemalloc.start()
    try:
        with pytest.raises(InvalidReplyError) as caught:
            check(message)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LEAVES_NO_MORE
    assert len(str(caught.value)) < 1000


def test_the_control_a_good_reply_is_accepted():
    check(answer())


@pytest.mark.parametrize(
    "data",
    [
        npy_claiming((10**10,)),  # numpy would reserve 40 GB before it reads
        npy_claiming((3,), "<f8", bytes(24)),
        npy_claiming((3,), data=bytes(16)),
        npy_claiming((3,), data=bytes(8)),
        npy_claiming((3, 1)),
        npy_claiming((3,))[:20],
        b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 3000,
        b"\x93NUMPY\x09\x00" + bytes(40),
        b"",
    ],
)
def test_an_array_that_is_not_what_it_claims_is_refused_before_it_is_decoded(data):
    message = with_array(Array("float32", (3,), "numpy.ndarray", data))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidReplyError):
            check(message)
        assert tracemalloc.get_traced_memory()[1] < LEAVES_NO_MORE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "extra",
    [
        {"x": "text"},
        {records.PARTITION_ID: 3},
        {records.PARTITION_ID: ["000003"]},
        {records.PARTITION_ID: "3"},
    ],
)
def test_provenance_holds_two_texts_and_nothing_else(extra):
    record = ConfigRecord({records.PARTITION_ID: "000003", records.CODE_SHA256: CODE, **extra})
    with pytest.raises(InvalidReplyError):
        check(answer(provenance=record))


@pytest.mark.parametrize(
    "message",
    [
        answer(provenance=ConfigRecord({"x": "y"})),
        answer(provenance=ConfigRecord({records.PARTITION_ID: "abc"})),
        Message(RecordDict(), reply_to=question()),
        Message(Error(2, "x"), reply_to=question()),
    ],
)
def test_a_claim_that_makes_no_sense_is_none(message):
    assert replies.claimed_participant(message) is None
    assert replies.claimed_participant(answer()) == "000003"


def test_a_participants_words_are_one_printable_line():
    assert replies.shown("a\nb\x1b[2Jc") == "a b?[2Jc"
    assert len(replies.shown("word " * 10_000)) <= 64


def test_an_evaluation_holds_metrics_and_nothing_else():
    good = MetricRecord({"num-examples": 5, "eval-accuracy": 0.5, "eval-loss": 1.0})
    replies.check_evaluate_reply(Message(RecordDict({records.METRICS: good}), reply_to=question()))
    more = RecordDict({records.METRICS: good, "x": ConfigRecord({"x": "y"})})
    with pytest.raises(InvalidReplyError, match="nothing else"):
        replies.check_evaluate_reply(Message(more, reply_to=question()))
