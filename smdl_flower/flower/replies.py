"""What a participant's reply must be to be used.

A reply is what another party chose to send. It is used only if it holds exactly what was asked for:
the tensors in name, shape, type and finite values, a plausible number of examples, few short texts.
Sizes are compared before anything is decoded or put into a message, so that a reply costs no more
memory here than Flower has spent on it already.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from numpy.typing import NDArray

from smdl_flower.errors import SmdlError, SuspectFileError
from smdl_flower.flower import blobs, packing
from smdl_flower.flower.blobs import BlobError
from smdl_flower.flower.records import (
    ARRAYS,
    CODE_SHA256,
    DECLARATION,
    EVAL_ACCURACY,
    EVAL_LOSS,
    METRICS,
    NUM_EXAMPLES,
    PARTITION_ID,
    PROVENANCE,
    TRAIN_LOSS,
)
from smdl_flower.privacy.declaration import Declaration
from smdl_flower.weights import Weights

LARGEST_SHARD = 100_000_000
LONGEST_TEXT = 200  # characters of a value in a config record; digests have 64
_PARTICIPANT = re.compile(r"[0-9]{6}")


class InvalidReplyError(SmdlError):
    """A participant's reply cannot be used; the round goes on without it."""


def check_train_reply(
    message: Message, expected: Weights, code_sha256: str, *, shard_size: int = 0
) -> None:
    """Accept a training reply or say why not.

    Args:
        message: The reply.
        expected: Arrays of the names, shapes and types that must come back.
        code_sha256: Digest of the server's code; a participant that runs other code would train
            another model than the run's record says.
        shard_size: In a ``dp`` run, the public number that stands in for the count of images; then
            the exact one and a loss are refused: they left without noise.

    Raises:
        InvalidReplyError: With the reason.
    """
    _check_no_error(message)
    content = message.content
    if set(content.array_records) != {ARRAYS} or set(content.metric_records) != {METRICS}:
        raise InvalidReplyError("it must hold one array record and one metric record")
    _check_texts(content.config_records)
    provenance = content.config_records.get(PROVENANCE, ConfigRecord())
    if provenance.get(CODE_SHA256) != code_sha256:
        raise InvalidReplyError(
            "it comes from other code than the server's (stale SuperLink or another version)"
        )
    _check_participant(provenance)
    _check_metrics(content.metric_records[METRICS], shard_size)
    _check_arrays(content.array_records[ARRAYS], expected)


def check_evaluate_reply(message: Message) -> None:
    """Accept an evaluation reply or say why not.

    Raises:
        InvalidReplyError: With the reason.
    """
    _check_no_error(message)
    content = message.content
    if set(content.metric_records) != {METRICS} or len(content) != 1:
        raise InvalidReplyError("it must hold one metric record and nothing else")
    metrics = content.metric_records[METRICS]
    if set(metrics) != {NUM_EXAMPLES, EVAL_ACCURACY, EVAL_LOSS}:
        raise InvalidReplyError("its metrics must be num-examples, eval-accuracy and eval-loss")
    _check_numbers(metrics)


def participant(reply: Message) -> str:
    """Return which participant a checked reply says it is from."""
    return str(reply.content.config_records[PROVENANCE][PARTITION_ID])


def claimed_participant(reply: Message) -> str | None:
    """Return which participant any reply says it is from; None if it says nothing that makes sense.

    Not to be believed: whoever sends a reply can write any number.
    """
    if reply.has_error():
        return None
    number = reply.content.config_records.get(PROVENANCE, ConfigRecord()).get(PARTITION_ID)
    return number if isinstance(number, str) and _PARTICIPANT.fullmatch(number) else None


def declaration_of(message: Message) -> Declaration:
    """Return what a participant declares about its training.

    Raises:
        PrivacyError: There is no declaration, or it is none.
    """
    return Declaration.from_record(message.content.config_records.get(DECLARATION, {}))


def _check_no_error(message: Message) -> None:
    if message.has_error():
        raise InvalidReplyError(f"error reply: {shown(message.error.reason or '', 400)}")


def shown(text: object, most: int = 60) -> str:
    """Return a participant's words on one line, printable; of a long text its end says most.

    Example:
        >>> shown("no space left    on device")
        'no space left on device'
    """
    words = str(text)  # a str stays itself, whatever its size
    end = " ".join(words[-10 * most :].split())
    line = end if len(end) <= most and len(words) <= 10 * most else f"... {end[-most:]}"
    return "".join(c if c.isprintable() else "?" for c in line)


def _check_texts(records: Mapping[str, ConfigRecord]) -> None:
    if not set(records) <= {PROVENANCE, DECLARATION}:
        raise InvalidReplyError(f"it may hold no config records but {PROVENANCE} and {DECLARATION}")
    for record in records.values():
        for value in record.values():
            if isinstance(value, (list, bytes)) or (
                isinstance(value, str) and len(value) > LONGEST_TEXT
            ):
                raise InvalidReplyError("a config record holds more than numbers and short texts")


def _check_participant(provenance: ConfigRecord) -> None:
    if set(provenance) != {PARTITION_ID, CODE_SHA256}:
        raise InvalidReplyError(f"{PROVENANCE} must hold {PARTITION_ID} and {CODE_SHA256} only")
    number = provenance[PARTITION_ID]
    if not isinstance(number, str) or not _PARTICIPANT.fullmatch(number):
        raise InvalidReplyError(f"{PARTITION_ID} is {shown(number)!r}; expected six digits")


def _check_metrics(metrics: MetricRecord, shard_size: int) -> None:
    if shard_size and (set(metrics) != {NUM_EXAMPLES} or metrics[NUM_EXAMPLES] != shard_size):
        raise InvalidReplyError(
            f"its metrics must be {NUM_EXAMPLES} {shard_size} alone; a count or loss of private "
            "images left without noise"
        )
    if shard_size:
        return
    if set(metrics) != {NUM_EXAMPLES, TRAIN_LOSS}:
        raise InvalidReplyError(f"its metrics must be {NUM_EXAMPLES} and {TRAIN_LOSS} only")
    _check_numbers(metrics)


def _check_numbers(metrics: MetricRecord) -> None:
    for name, value in metrics.items():
        if isinstance(value, list):
            raise InvalidReplyError(f"{name} is a list; expected a number")
        if not math.isfinite(value):
            raise InvalidReplyError(f"{name} is {value!r}; expected a finite number")
    examples = metrics[NUM_EXAMPLES]
    if not isinstance(examples, int) or not 0 < examples <= LARGEST_SHARD:
        raise InvalidReplyError(f"{NUM_EXAMPLES} is {examples!r}; expected 1 to {LARGEST_SHARD:,}")


def _check_arrays(arrays: ArrayRecord, expected: Weights) -> None:
    if packing.PACKED in arrays:  # it came packed, and could not be unpacked
        raise InvalidReplyError(f"its model is refused: {_why_packed(arrays, expected)}")
    if list(arrays) != sorted(expected):
        different = [shown(name) for name in sorted(set(arrays) ^ set(expected))[:3]]
        raise InvalidReplyError(f"it holds other tensors, or in another order: {different}")
    for name, array in arrays.items():
        wanted = expected[name]
        if (tuple(array.shape), array.dtype) != (wanted.shape, str(wanted.dtype)):
            claimed = f"{shown(array.dtype, 20)}{list(array.shape[:8])}"
            raise InvalidReplyError(
                f"{name} is {claimed}; expected {wanted.dtype}{list(wanted.shape)}"
            )
        if array.stype != blobs.NUMPY or len(array.data) > wanted.nbytes + blobs.LONGEST_HEADER:
            raise InvalidReplyError(f"{name} is not a plain array of its claimed size")
        _check_header(name, array, wanted)
        if not np.isfinite(_decode(name, array)).all():
            raise InvalidReplyError(f"{name} has values that are NaN or infinite")


def _why_packed(arrays: ArrayRecord, expected: Weights) -> str:
    most = sum(array.nbytes for array in expected.values()) + packing.FEW_BYTES
    try:
        packing.unpack(arrays, most)
    except (BlobError, SuspectFileError) as error:
        return shown(error, 200)
    return "nothing was sent that it could answer"


def _check_header(name: str, array: Array, wanted: NDArray[Any]) -> None:
    """What the bytes say of themselves must be what was said of them."""
    try:
        shape, dtype, start = blobs.header(array.data)
    except BlobError as error:
        raise InvalidReplyError(f"{name}: {error}") from None
    if (shape, dtype) != (wanted.shape, wanted.dtype) or len(array.data) != start + wanted.nbytes:
        raise InvalidReplyError(f"{name} holds another array than it claims")


def _decode(name: str, array: Array) -> NDArray[Any]:
    try:
        return array.numpy()  # numpy.load without pickle
    except Exception as error:
        raise InvalidReplyError(f"{name} cannot be decoded ({type(error).__name__})") from None
