"""The messages between server and participants: keys in one place, replies checked in one place.

A reply is what another party chose to send. It is used only if it holds exactly the tensors asked
for, in shape, type and finite values, and a plausible number of examples.
"""

import math
import re
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from smdl_flower.errors import ConfigError, SmdlError
from smdl_flower.image_folder import LARGEST_SIDE, ImageFormat
from smdl_flower.own_images import Terms
from smdl_flower.privacy.declaration import Declaration
from smdl_flower.weights import Weights

ARRAYS = "arrays"
CONFIG = "config"
METRICS = "metrics"
PROVENANCE = "provenance"
DECLARATION = "declaration"

NUM_EXAMPLES = "num-examples"
TRAIN_LOSS = "train-loss"
EVAL_ACCURACY = "eval-accuracy"
EVAL_LOSS = "eval-loss"
LEARNING_RATE = "learning-rate"
SERVER_ROUND = "server-round"
PROXIMAL_MU = "proximal-mu"
PARTITION_ID = "partition-id"
PARTITION_SHA256 = "partition-sha256"
CODE_SHA256 = "code-sha256"
CLASSES = "classes"
CHANNELS = "channels"
IMAGE_SIZE = "image-size"

LARGEST_SHARD = 100_000_000
_PARTICIPANT = re.compile(r"[0-9]{6}")


class InvalidReplyError(SmdlError):
    """A participant's reply cannot be used; the round goes on without it."""


def to_record(weights: Weights) -> ArrayRecord:
    """Return weights as a Flower record, by name: some strategies pair tensors by position."""
    return ArrayRecord({name: Array(weights[name]) for name in sorted(weights)})


def from_record(record: ArrayRecord) -> Weights:
    """Return the arrays of a Flower record."""
    return {name: array.numpy() for name, array in record.items()}


def with_arrays(content: RecordDict, weights: Weights) -> RecordDict:
    """Return a message's content with other arrays; the argument, which may be shared, is kept."""
    return RecordDict({**content, ARRAYS: to_record(weights)})


def put_terms(config: ConfigRecord, terms: Terms) -> None:
    """Tell a participant, in its instruction, what the federation's images are."""
    config[CLASSES] = list(terms.classes)
    config[CHANNELS] = terms.format.channels
    config[IMAGE_SIZE] = terms.format.size


def terms_in(config: ConfigRecord) -> Terms:
    """Return what an instruction says of the federation's images.

    Raises:
        ConfigError: It says nothing, or nothing that makes sense.
    """
    classes, channels = config.get(CLASSES), config.get(CHANNELS)
    size = config.get(IMAGE_SIZE)
    if (
        not isinstance(classes, list)
        or not all(isinstance(name, str) and name for name in classes)
        or not 0 < len(set(classes)) == len(classes)
        or channels not in (1, 3)
        or not isinstance(size, int)
        or not 0 < size <= LARGEST_SIDE
    ):
        raise ConfigError(
            "the server does not say what classes and images the federation has; it runs another "
            "version: ask the owner"
        )
    return Terms(tuple(map(str, classes)), ImageFormat(int(str(channels)), size))


def participant(reply: Message) -> str:
    """Return which participant a checked reply says it is from."""
    return str(reply.content.config_records[PROVENANCE][PARTITION_ID])


def train_reply(
    message: Message,
    weights: Weights,
    metrics: dict[str, float],
    provenance: dict[str, str],
    declaration: Declaration | None = None,
) -> Message:
    """Return a participant's reply to a training instruction.

    Args:
        message: The instruction.
        weights: The allow-listed tensors after local training.
        metrics: ``num-examples`` and ``train-loss``; in a ``dp`` run the public number alone.
        provenance: Which participant, and the digest of the code it runs.
        declaration: In a ``dp`` run, what was done to the updates.
    """
    content = RecordDict(
        {
            ARRAYS: to_record(weights),
            METRICS: MetricRecord(dict(metrics)),
            PROVENANCE: ConfigRecord(dict(provenance)),
        }
    )
    if declaration:
        content[DECLARATION] = ConfigRecord({**declaration.to_record()})
    return Message(content, reply_to=message)


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
    if message.has_error():
        raise InvalidReplyError(f"error reply: {_shortened(message.error.reason or '')}")
    content = message.content
    if set(content.array_records) != {ARRAYS} or set(content.metric_records) != {METRICS}:
        raise InvalidReplyError("it must hold one array record and one metric record")
    provenance = content.config_records.get(PROVENANCE, ConfigRecord())
    if provenance.get(CODE_SHA256) != code_sha256:
        raise InvalidReplyError(
            "it comes from other code than the server's (stale SuperLink or another version)"
        )
    _check_participant(provenance.get(PARTITION_ID))
    _check_metrics(content.metric_records[METRICS], shard_size)
    _check_arrays(content.array_records[ARRAYS], expected)


def check_evaluate_reply(message: Message) -> None:
    """Accept an evaluation reply or say why not.

    Raises:
        InvalidReplyError: With the reason.
    """
    if message.has_error():
        raise InvalidReplyError(f"error reply: {_shortened(message.error.reason or '')}")
    content = message.content
    if set(content.metric_records) != {METRICS} or content.array_records:
        raise InvalidReplyError("it must hold one metric record and no arrays")
    metrics = content.metric_records[METRICS]
    if set(metrics) != {NUM_EXAMPLES, EVAL_ACCURACY, EVAL_LOSS}:
        raise InvalidReplyError("its metrics must be num-examples, eval-accuracy and eval-loss")
    _check_numbers(metrics)


def _shortened(reason: str) -> str:
    """One line of a participant's words; of a traceback, its end says most."""
    line = " ".join(reason.split())
    return line if len(line) <= 400 else f"... {line[-400:]}"


def declaration_of(message: Message) -> Declaration:
    """Return what a participant declares about its training.

    Raises:
        PrivacyError: There is no declaration, or it is none.
    """
    return Declaration.from_record(message.content.config_records.get(DECLARATION, {}))


def _check_participant(number: object) -> None:
    if not isinstance(number, str) or not _PARTICIPANT.fullmatch(number):
        raise InvalidReplyError(f"{PARTITION_ID} is {str(number)[:20]!r}; expected six digits")


def _check_metrics(metrics: MetricRecord, shard_size: int) -> None:
    if shard_size and dict(metrics) != {NUM_EXAMPLES: shard_size}:
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
    examples = metrics[NUM_EXAMPLES]
    if not isinstance(examples, int) or not 0 < examples <= LARGEST_SHARD:
        raise InvalidReplyError(f"{NUM_EXAMPLES} is {examples!r}; expected 1 to {LARGEST_SHARD:,}")
    for name, value in metrics.items():
        if isinstance(value, list) or not math.isfinite(value):
            raise InvalidReplyError(f"{name} is {value!r}; expected a finite number")


def _check_arrays(arrays: ArrayRecord, expected: Weights) -> None:
    if list(arrays) != sorted(expected):
        different = sorted(set(arrays) ^ set(expected))[:3]
        raise InvalidReplyError(f"it holds other tensors, or in another order: {different}")
    for name, array in arrays.items():
        wanted = expected[name]
        if (tuple(array.shape), array.dtype) != (wanted.shape, str(wanted.dtype)):
            raise InvalidReplyError(
                f"{name} is {array.dtype}{list(array.shape)}; expected "
                f"{wanted.dtype}{list(wanted.shape)}"
            )
        if array.stype != "numpy.ndarray" or len(array.data) > wanted.nbytes + 4096:
            raise InvalidReplyError(f"{name} is not a plain array of its claimed size")
        values = _decode(name, array)
        if (values.shape, values.dtype) != (wanted.shape, wanted.dtype):
            raise InvalidReplyError(f"{name} holds another array than it claims")
        if not np.isfinite(values).all():
            raise InvalidReplyError(f"{name} has values that are NaN or infinite")


def _decode(name: str, array: Array) -> NDArray[Any]:
    try:
        return array.numpy()  # numpy.load without pickle
    except Exception as error:  # hostile bytes may fail in any way
        raise InvalidReplyError(f"{name} cannot be decoded ({type(error).__name__})") from None
