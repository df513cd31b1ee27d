"""A participant's side of a delivery: prove who it is, take its own copy, sign for it.

Where its private key is and where copies go is the node's own configuration (``node-key``,
``copies-dir``), never the run's, which the server writes. A node without them answers that it has
none. What the server sends is hostile until it has been opened, read within limits and compared;
the server learns a short reason of a refusal, never a path.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import ConfigRecord, Context, Message

from smdl_flower import delivery, files, models, nodekeys, weights
from smdl_flower.delivery import Session
from smdl_flower.errors import ConfigError, DeliveryError, OutputExistsError, SmdlError
from smdl_flower.flower import parcels, reticence
from smdl_flower.models import ModelSpec
from smdl_flower.sealing import SealingKey
from smdl_flower.weights import ModelFile

log = logging.getLogger(__name__)

NODE_KEY = "node-key"
COPIES_DIRECTORY = "copies-dir"

_PENDING = "delivery-pending"  # in the context's state, which stays at the node
_ANSWERED = "delivery-answered"
_MOST_QUESTIONS = 1000


def present(message: Message, context: Context) -> Message:
    """Answer the server's challenge with a signature by this node's key."""
    return _declining(lambda: _present(message, context), message)


def receive(message: Message, context: Context, model: str) -> Message:
    """Open the copy, keep it in this node's folder for copies, and sign for it.

    Args:
        message: With the sealed copy.
        context: Of the node.
        model: Architecture of the run, which the copy must have.
    """
    return _declining(lambda: _receive(message, context, model), message)


def _present(message: Message, context: Context) -> dict[str, str]:
    challenge = parcels.read(message.content, parcels.CHALLENGE)[parcels.CHALLENGE]
    private = _own_key(context)
    _own_folder(context)  # said before the server makes anything for this node
    _refuse_repeated(challenge, context)
    names = str(context.run_id), str(context.node_id)
    session, one_time, signature = delivery.answer(*names, challenge, private)
    context.state[_PENDING] = ConfigRecord({**vars(session), "secret": one_time.secret})
    return {
        parcels.NONCE: session.nonce,
        parcels.KEY: session.key,
        parcels.SEAL_TO: session.seal_to,
        parcels.SIGNATURE: signature,
    }


def _receive(message: Message, context: Context, model: str) -> dict[str, str]:
    session, one_time = _take_pending(context)
    fields = parcels.read(message.content, parcels.CHALLENGE, parcels.SHA256)
    if fields[parcels.CHALLENGE] != session.challenge:
        raise DeliveryError("the copy is for another challenge than the last one answered")
    digest = fields[parcels.SHA256]
    content = delivery.unpack(session, one_time, parcels.sealed_bytes(message.content), digest)
    file = weights.parse(content, "the copy")
    if weights.digest(file.weights) != digest:
        raise DeliveryError("the copy has another digest than the one announced")
    _require_model(file, model)
    _keep(_own_folder(context) / f"copy-{digest[:16]}.safetensors", content, digest)
    signature = delivery.receipt(session, _own_key(context), digest)
    return {parcels.SHA256: digest, parcels.SIGNATURE: signature}


def _declining(work: Callable[[], dict[str, str]], message: Message) -> Message:
    try:
        fields = work()
    except SmdlError as error:
        log.warning("delivery declined: %s", error)
        # A DeliveryError says nothing of this machine; of any other the server is told the kind.
        reason = str(error) if isinstance(error, DeliveryError) else reticence.told(error)
        fields = {parcels.DECLINED: reason}
    return Message(parcels.write(fields), reply_to=message)


def _own_key(context: Context) -> EllipticCurvePrivateKey:
    path = context.node_config.get(NODE_KEY)
    if not isinstance(path, str) or not path:
        raise DeliveryError(f"this node has no {NODE_KEY}")
    try:
        return nodekeys.load_private(Path(path))
    except ConfigError as error:
        log.warning("%s: %s", NODE_KEY, error)
        raise DeliveryError(f"the {NODE_KEY} of this node cannot be used") from None


def _own_folder(context: Context) -> Path:
    path = context.node_config.get(COPIES_DIRECTORY)
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise DeliveryError(f"this node has no {COPIES_DIRECTORY}, an absolute path")
    return Path(path)


def _refuse_repeated(challenge: str, context: Context) -> None:
    delivery.require_hex(challenge, "challenge")
    before = context.state.config_records.get(_ANSWERED, ConfigRecord({_ANSWERED: []}))[_ANSWERED]
    assert isinstance(before, list)  # noqa: S101 - for the type checker
    if challenge in before:
        raise DeliveryError("that challenge was answered before")
    if len(before) >= _MOST_QUESTIONS:
        raise DeliveryError("too many challenges in one run")
    context.state[_ANSWERED] = ConfigRecord({_ANSWERED: [*before, challenge]})


def _take_pending(context: Context) -> tuple[Session, SealingKey]:
    """The session that was begun; now forgotten: its one-time key opens one message at most."""
    pending = context.state.config_records.get(_PENDING)
    if pending is None:
        raise DeliveryError("no challenge was answered before, or its copy was handled already")
    del context.state[_PENDING]
    values: dict[str, Any] = dict(pending)
    secret = values.pop("secret")
    return Session(**values), SealingKey(secret)


def _require_model(file: ModelFile, model: str) -> None:
    if file.metadata.get("name") != model:
        raise DeliveryError("the copy is of another model than this run's")
    models.from_weights(ModelSpec.from_metadata(file.metadata, model), file.weights)


def _keep(path: Path, content: bytes, digest: str) -> None:
    """Write the copy; the name is its digest's, so that no name is the server's choice."""
    try:
        files.write(path, content, replace=False)
    except OutputExistsError:
        if not _is_there_already(path, digest):
            raise DeliveryError("another file has the copy's name here") from None
    except OSError as error:
        log.warning("%s: %s", path, error.strerror)
        raise DeliveryError("the copy cannot be written here") from None
    log.info("own copy received: %s", path)


def _is_there_already(path: Path, digest: str) -> bool:
    try:
        return weights.digest(weights.read(path).weights) == digest
    except SmdlError:
        return False
