"""The messages between server and participants: their keys, and how they are put together."""

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from smdl_flower.errors import ConfigError
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
