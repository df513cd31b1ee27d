"""A model travels in one piece.

Flower stores and sends every tensor as objects of its own, each by a request and a transaction of
its database: a network of 170 tensors takes a minute a round, of whatever size it is, and a
database that is locked for too long loses a reply. So the model of a message becomes one array, the
bytes of a safetensors file, where it leaves, and tensors by name where it arrives. Neither the
strategies nor the training see any of it.
"""

import contextlib
import copy
from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid

from smdl_flower import weights
from smdl_flower.errors import SuspectFileError
from smdl_flower.flower import blobs, records
from smdl_flower.flower.blobs import BlobError
from smdl_flower.weights import Limits

PACKED = "safetensors"
FEW_BYTES = 1 << 20  # that a reply's header may take beside tensors like those of the question


def pack(record: ArrayRecord) -> ArrayRecord:
    """Return a record of one array that holds all of another.

    Example:
        >>> import numpy as np
        >>> model = records.to_record({"b": np.ones(2, np.float32), "w": np.eye(2, dtype="f4")})
        >>> list(pack(model)), unpack(pack(model), most=1000) == model
        (['safetensors'], True)
    """
    return blobs.to_record(PACKED, weights.to_bytes(records.from_record(record)))


def unpack(record: ArrayRecord, most: int) -> ArrayRecord:
    """Return what :func:`pack` was given, float32 and finite; the record may be hostile.

    Args:
        record: Of one array.
        most: How many bytes it may hold.

    Raises:
        BlobError: It is no packed model, or a larger one.
        SuspectFileError: Its tensors are not what they claim to be, or NaN or infinite.
    """
    content = blobs.from_record(record, PACKED, most)
    model = weights.parse(content, "packed model", Limits(file_bytes=most)).weights
    if sum(array.nbytes for array in model.values()) > len(content):
        raise BlobError("a tensor is not of type float32")  # of half the size; parsing widens it
    return records.to_record(model)


def is_packed(content: RecordDict) -> bool:
    """Say whether a message brings a packed model; it may be hostile all the same."""
    return PACKED in content.array_records.get(records.ARRAYS, ())


def in_one_piece(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Unpack a question's model and pack that of the reply; a Flower mod."""
    if not is_packed(message.content):
        return call_next(message, context)
    arrays = unpack(message.content.array_records[records.ARRAYS], Limits().file_bytes)
    opened = copy.copy(message)
    opened.content = RecordDict({**message.content, records.ARRAYS: arrays})
    reply = call_next(opened, context)
    if not reply.has_error() and records.ARRAYS in reply.content:
        _pack(reply)
    return reply


def pack_in_transit(grid: Grid) -> None:
    """Let a grid pack the models that it sends, and unpack those that it gets.

    Replaces ``push_messages`` and ``pull_messages`` of this grid, which its own
    ``send_and_receive`` calls. A reply that cannot be unpacked stays packed, to be refused by who
    judges it. A simulation's grid, where nothing is stored or sent in parts, stays as it is.
    """
    from flwr.superlink.grid import InMemoryGrid  # noqa: PLC0415 - internal, hence the pin flwr<1.43

    if isinstance(grid, InMemoryGrid):
        return
    transit = _Transit(grid)
    grid.push_messages = transit.push  # type: ignore[method-assign]
    grid.pull_messages = transit.pull  # type: ignore[method-assign]


@dataclass
class _Transit:
    grid: Grid
    sizes: dict[str, int] = field(default_factory=dict)  # of what was sent, by message

    def __post_init__(self) -> None:
        self._push, self._pull = self.grid.push_messages, self.grid.pull_messages

    def push(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        sizes = [_pack(message) if _has_model(message) else 0 for message in asked]
        identifiers = list(self._push(asked))
        named = zip(asked, sizes, strict=True)
        self.sizes = {message.metadata.message_id: size for message, size in named}
        return identifiers

    def pull(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._unpacked(reply) for reply in self._pull(message_ids)]

    def _unpacked(self, reply: Message) -> Message:
        size = self.sizes.get(reply.metadata.reply_to_message_id)
        if size is None or reply.has_error() or not is_packed(reply.content):
            return reply
        with contextlib.suppress(BlobError, SuspectFileError):  # whoever judges it says why
            arrays = unpack(reply.content.array_records[records.ARRAYS], size + FEW_BYTES)
            reply.content = RecordDict({**reply.content, records.ARRAYS: arrays})
        return reply


def _has_model(message: Message) -> bool:
    return records.ARRAYS in message.content.array_records


def _pack(message: Message) -> int:
    """Pack a message's model; return its size."""
    packed = pack(message.content.array_records[records.ARRAYS])
    message.content = RecordDict({**message.content, records.ARRAYS: packed})
    return len(packed[PACKED].data)
