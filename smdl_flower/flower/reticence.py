"""What a participant tells the server of a failure: one of a few codes, and nothing else.

Flower sends the text of whatever a client app raises to the server, and from there it gets into
logs and reports. Such a text may name a private path or file, a count, a patient. So nothing is
raised: the whole error goes to the institution's own standard error, a code to the server. Ray
shows nobody the standard error of simulated participants: ``smdl simulate`` names a file as well.
"""

import logging
import os
import traceback
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp.typing import ClientAppCallable

from smdl_flower import files
from smdl_flower.errors import SmdlError

log = logging.getLogger(__name__)

LOG_VARIABLE = "SMDL_PARTICIPANT_LOG"
APP_ERROR = 2  # flwr.common.constant.ErrorCode.CLIENT_APP_RAISED_EXCEPTION


def keep_to_itself(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer with a code instead of raising; a Flower mod."""
    try:
        return call_next(message, context)
    except Exception as error:  # whatever it is, its text stays here
        code = told(error)
        said = str(error) if isinstance(error, SmdlError) else traceback.format_exc()
        _say(f"this participant did not answer: {said}\nThe server is told {code!r} and no more.")
        return Message(Error(code=APP_ERROR, reason=code), reply_to=message)


def told(error: Exception) -> str:
    """Return the code for an error.

    Example:
        >>> from smdl_flower.errors import DataError
        >>> told(DataError("/mnt/patients/miller.png: not a readable image"))
        'data'
        >>> told(KeyError("miller"))
        'internal'
    """
    if isinstance(error, SmdlError):
        return error.told
    return "memory" if isinstance(error, MemoryError) else "internal"


def _say(text: str) -> None:
    log.error("%s", text)
    place = os.environ.get(LOG_VARIABLE)
    if place:
        files.append(Path(place), f"{text}\n".encode(errors="replace"))
