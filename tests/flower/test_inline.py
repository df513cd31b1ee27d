import pytest
from flwr.app import RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from smdl_flower.flower import inline


def test_what_the_server_app_raises_is_raised_by_the_run():
    server = ServerApp()

    @server.main()
    def main(grid, context):
        raise RuntimeError(f"stopped with {context.run_config['seed']}")

    with pytest.raises(RuntimeError, match="stopped with 5"):
        inline.run(server, ClientApp(), 1, {"seed": 5})


def test_participants_know_their_partition_and_raise_as_error_replies():
    client = ClientApp()

    @client.train()
    def train(message, context):
        raise ValueError(f"I am {context.node_config['partition-id']}")

    inline.allow_messages()
    grid = inline.InlineGrid(client, 2, {})
    messages = [grid.create_message(RecordDict(), "train", n, "1") for n in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages))
    assert [r.has_error() for r in replies] == [True, True]
    assert "I am 1" in str(replies[1].error.reason)
    assert replies[1].metadata.reply_to_message_id == messages[1].metadata.message_id


def test_a_silent_participant_sends_nothing():
    client = ClientApp()
    inline.allow_messages()
    grid = inline.InlineGrid(client, 1, {})
    grid.silent = {1}
    message = grid.create_message(RecordDict(), "train", 1, "1")
    assert list(grid.send_and_receive([message])) == []
