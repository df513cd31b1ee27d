"""The messages of a delivery: their records and fields in one place, read with suspicion.

A message has one config record of texts; the one that brings a copy also has one array record with
the sealed bytes (Flower cuts arrays into chunks, which it does not do with other values).
"""

from collections.abc import Mapping

from flwr.app import ConfigRecord, Message, RecordDict

from smdl_flower.errors import DeliveryError
from smdl_flower.flower import blobs
from smdl_flower.flower.blobs import BlobError
from smdl_flower.flower.replies import shown
from smdl_flower.weights import Limits

PRESENT = "query.present"  # types of message: who are you, and here is yours
RECEIVE = "query.receive"

CHALLENGE = "challenge"
NONCE = "nonce"
KEY = "key"
SEAL_TO = "seal-to"
SIGNATURE = "signature"
SHA256 = "sha256"
DECLINED = "declined"

_FIELDS = "delivery"
_SEALED = "sealed"
_LONGEST_TEXT = 1000


def write(fields: Mapping[str, str], sealed: bytes | None = None) -> RecordDict:
    """Return the content of a message.

    Example:
        >>> content = write({CHALLENGE: "ab"}, sealed=b"xyz")
        >>> read(content, CHALLENGE), sealed_bytes(content)
        ({'challenge': 'ab'}, b'xyz')
    """
    content = RecordDict({_FIELDS: ConfigRecord(dict(fields))})
    if sealed is not None:
        content[_SEALED] = blobs.to_record(_SEALED, sealed)
    return content


def read(content: RecordDict, *names: str) -> dict[str, str]:
    """Return the fields of a message.

    Raises:
        DeliveryError: It has other fields, or other values than short texts.
    """
    fields = content.config_records.get(_FIELDS, ConfigRecord())
    if len(content.config_records) != 1 or content.metric_records or set(fields) != set(names):
        raise DeliveryError("the message has other fields than expected")
    texts = {k: v for k, v in fields.items() if isinstance(v, str) and len(v) <= _LONGEST_TEXT}
    if set(texts) != set(names):
        raise DeliveryError("the message has a field that is no short text")
    return texts


def read_reply(reply: Message, *names: str) -> dict[str, str]:
    """Return the fields of a node's reply.

    Raises:
        DeliveryError: The node failed or declined, or the reply is not as :func:`read` wants it.
    """
    if reply.has_error():
        raise DeliveryError(f"error reply: {shown(reply.error.reason or '', 200)}")
    if reply.content.array_records:
        raise DeliveryError("the message has other fields than expected")
    if DECLINED in reply.content.config_records.get(_FIELDS, ConfigRecord()):
        raise DeliveryError(f"declined: {shown(read(reply.content, DECLINED)[DECLINED], 200)}")
    return read(reply.content, *names)


def sealed_bytes(content: RecordDict) -> bytes:
    """Return the sealed copy of a message.

    Raises:
        DeliveryError: There is none, or it is not stored as bytes.
    """
    if set(content.array_records) != {_SEALED}:
        raise DeliveryError("the message brings no sealed copy")
    try:
        return blobs.from_record(content.array_records[_SEALED], _SEALED, Limits().file_bytes)
    except BlobError as error:
        raise DeliveryError(f"the sealed copy: {error}") from None
