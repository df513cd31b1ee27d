"""A reply that Flower cannot put together is one participant's, not the run's."""

import json

import httpx
import numpy as np
import pytest
from flwr.app import Array, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from smdl_flower.errors import FederationError
from smdl_flower.flower import pulling, records
from tests.flower.test_strategy import MODEL, honest, run


def objects_of(message: Message) -> dict[str, bytes]:
    """What a SuperNode uploads for a reply."""
    return {name: part.deflate() for name, part in get_all_nested_objects(message).items()}


def _described(change):
    """Write another description of an array than Flower would."""

    def altered(contents: dict[str, bytes]) -> dict[str, bytes]:
        result = {}
        for name, content in contents.items():
            head, _, body = content.partition(b"\x00")
            result[name] = head + b"\x00" + change(body) if head.startswith(b"Array ") else content
        return result

    return altered


def _without_type(body: bytes) -> bytes:
    description = json.loads(body)
    del description["dtype"]
    return json.dumps(description).encode()


DAMAGE = {
    "no type": _described(_without_type),
    "no JSON": _described(lambda body: b"\xff" * len(body)),
    "parts missing": lambda contents: {
        name: content for name, content in contents.items() if not content.startswith(b"ArrayChunk")
    },
}


def uploading(grid, damage, nodes):
    """Send replies over Flower's own objects; those of some nodes are damaged on the way."""
    plain = grid.pull_messages

    def pull(message_ids):
        received = []
        for reply in plain(message_ids):
            contents = objects_of(reply)
            if reply.metadata.src_node_id in nodes:
                contents = damage(contents)
            message = inflate_object_from_contents(reply.object_id, contents)
            assert isinstance(message, Message)
            received.append(message)
        return received

    grid.pull_messages = pull
    return grid


@pytest.mark.parametrize("what", DAMAGE)
def test_the_round_goes_on_with_the_others(what, grid_of, issuer, caplog):
    run(uploading(grid_of(honest, honest, honest), DAMAGE[what], {2}), issuer)
    assert len(issuer.bases) == 1
    assert "reply of node 2 refused: error reply: Flower cannot put it together" in caplog.text


@pytest.mark.parametrize("what", DAMAGE)
def test_the_control_flower_alone_ends_the_run(what, grid_of, issuer, monkeypatch):
    monkeypatch.setattr(pulling, "fetch_one_by_one", lambda _: None)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it is
        run(uploading(grid_of(honest, honest, honest), DAMAGE[what], {2}), issuer)
    assert not isinstance(caught.value, FederationError)


def test_undamaged_replies_arrive_as_they_were_sent(grid_of, issuer):
    run(uploading(grid_of(honest, honest), DAMAGE["no type"], set()), issuer)
    run(grid_of(honest, honest), issuer)
    over, inline = issuer.bases
    for name, array in inline.items():
        np.testing.assert_array_equal(over[name], array)


def test_an_error_of_the_connection_is_raised(grid_of, issuer):
    grid = grid_of(honest, honest)

    def broken(_):
        raise httpx.ConnectError("refused")

    grid.pull_messages = broken
    with pytest.raises(httpx.ConnectError):
        run(grid, issuer)


def test_what_is_remembered_of_a_question_is_not_the_model(grid_of):
    grid = grid_of(lambda message, _: Message(RecordDict(), reply_to=message))
    pulling.fetch_one_by_one(grid)
    content = RecordDict({records.ARRAYS: records.to_record(MODEL)})
    question = grid.create_message(content, "train", 1, "1")
    grid.push_messages([question])
    (kept,) = grid.pull_messages._questions.values()
    assert kept.metadata.message_id == question.metadata.message_id
    assert not kept.content
    assert question.content.array_records[records.ARRAYS]


def test_a_grid_is_changed_once(grid_of):
    grid = grid_of(honest)
    pulling.fetch_one_by_one(grid)
    first = grid.pull_messages
    pulling.fetch_one_by_one(grid)
    assert grid.pull_messages is first


def test_one_part_named_many_times_takes_much_memory_in_flower_itself():
    """What docs/threat_model.md says of it: 1 MB of traffic, 100 MB of memory."""
    array = Array(np.zeros(1 << 18, np.float32))
    contents = {name: part.deflate() for name, part in get_all_nested_objects(array).items()}
    (name,) = [n for n, content in contents.items() if content.startswith(b"Array ")]
    head, _, body = contents[name].partition(b"\x00")
    description = json.loads(body) | {"arraychunk_ids": [0] * 100}
    contents[name] = head + b"\x00" + json.dumps(description).encode()
    sent = sum(map(len, contents.values()))
    inflated = inflate_object_from_contents(name, contents)
    assert isinstance(inflated, Array)
    assert len(inflated.data) > 90 * sent
