"""The model of a message as it lies on the wire: in one piece."""

from flwr.app import RecordDict

from smdl_flower.flower import packing, records
from smdl_flower.weights import Weights


def model_in(content: RecordDict) -> Weights:
    """Return a message's model, by name."""
    arrays = content.array_records[records.ARRAYS]
    return records.from_record(packing.unpack(arrays, most=1 << 30))


def put_model(content: RecordDict, model: Weights) -> None:
    """Give a message another model."""
    content[records.ARRAYS] = packing.pack(records.to_record(model))
