"""Replies are fetched one by one, so that one which Flower cannot put together fails alone.

Flower puts a reply together from the objects its sender uploaded before any code of ours sees it,
all replies that are there in one call. A sender that writes its own objects can make that raise (a
description without a type, no JSON, a missing part, gigabytes from one part named many times), and
so end the whole run, whatever the others sent.
"""

import copy
import logging
from collections.abc import Iterable

import httpx
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

log = logging.getLogger(__name__)

UNREADABLE = 0  # flwr.common.constant.ErrorCode.UNKNOWN


def fetch_one_by_one(grid: Grid) -> None:
    """Let a grid answer for a reply that cannot be put together with an error reply.

    Replaces ``push_messages`` and ``pull_messages`` of this grid, which its own
    ``send_and_receive`` calls. Errors of the connection are raised as before. A simulation's grid
    puts nothing together and stays as it is: it is asked ten times a second.
    """
    from flwr.superlink.grid import InMemoryGrid  # noqa: PLC0415 - internal, hence the pin flwr<1.43

    if isinstance(grid, InMemoryGrid) or isinstance(vars(grid).get("pull_messages"), _Pull):
        return
    questions: dict[str, Message] = {}
    grid.push_messages = _Push(grid, questions)  # type: ignore[method-assign]
    grid.pull_messages = _Pull(grid, questions)  # type: ignore[method-assign]


class _Push:
    """``push_messages``, remembering what was asked."""

    def __init__(self, grid: Grid, questions: dict[str, Message]) -> None:
        self._push, self._questions = grid.push_messages, questions

    def __call__(self, messages: Iterable[Message]) -> Iterable[str]:
        asked = list(messages)
        identifiers = list(self._push(asked))
        self._questions.clear()
        self._questions.update({m.metadata.message_id: _emptied(m) for m in asked})
        return identifiers


class _Pull:
    """``pull_messages``, one at a time."""

    def __init__(self, grid: Grid, questions: dict[str, Message]) -> None:
        self._pull, self._questions = grid.pull_messages, questions

    def __call__(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies: list[Message] = []
        for identifier in sorted(message_ids):
            try:
                replies += self._pull([identifier])
            except httpx.HTTPError:
                raise
            except Exception as error:  # whatever a hostile sender makes Flower raise
                question = self._questions.get(identifier)
                if question is None:
                    raise
                what = type(error).__name__  # its text may hold whatever was sent
                node = question.metadata.dst_node_id
                log.warning("Flower cannot put the reply of node %d together (%s)", node, what)
                reason = f"Flower cannot put it together ({what})"
                replies.append(Message(Error(code=UNREADABLE, reason=reason), reply_to=question))
        return replies


def _emptied(message: Message) -> Message:
    """A question without the model in it."""
    light = copy.copy(message)
    light.content = RecordDict()
    return light
