"""Both apps in one process, without Ray, network or serialisation: for quick runs and tests."""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run

from smdl_flower.config import FlatConfig, Scalar
from smdl_flower.flower.reticence import APP_ERROR

RUN_ID = 1


class InlineGrid(Grid):
    """A grid whose nodes are function calls; a participant that raises sends an error reply.

    Args:
        client_app: Of all nodes: a ``ClientApp``, or what stands in for one.
        participants: How many nodes; their ids count from 1.
        run_config: Of all of them.
        node_configs: More node config, of each; shorter if the last have no more.

    Attributes:
        silent: Node ids that never answer; for tests.
    """

    def __init__(
        self,
        client_app: Callable[[Message, Context], Message],
        participants: int,
        run_config: Mapping[str, Scalar],
        node_configs: Sequence[Mapping[str, Scalar]] = (),
    ) -> None:
        self.silent: set[int] = set()
        self._app = client_app
        self._replies: dict[str, Message] = {}
        self._contexts = {
            i + 1: Context(
                run_id=RUN_ID,
                node_id=i + 1,
                node_config={
                    **{"partition-id": i, "num-partitions": participants},
                    **(node_configs[i] if i < len(node_configs) else {}),
                },
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for i in range(participants)
        }

    def set_run(self, run: Run) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Run:
        """Not available inline."""
        raise NotImplementedError("an inline run has no Run object")

    def create_message(  # Flower's own signature
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new instruction."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the client app for each message and keep the replies."""
        identifiers = []
        for message in messages:
            identifier = uuid.uuid4().hex
            identifiers.append(identifier)
            # As flwr's own InMemoryGrid does: there is no public way to give a message its id.
            message.metadata.__dict__["_message_id"] = identifier
            node = message.metadata.dst_node_id
            if node in self.silent:
                continue
            try:
                reply = self._app(message, self._contexts[node])
            except Exception as error:  # whatever a participant does is its reply
                reply = Message(Error(code=APP_ERROR, reason=repr(error)), reply_to=message)
            self._replies[identifier] = reply
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return [self._replies.pop(i) for i in message_ids if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push messages and return their replies."""
        del timeout  # every reply is there at once, or never
        return self.pull_messages(self.push_messages(messages))


def run(
    server_app: ServerApp,
    client_app: ClientApp,
    participants: int,
    run_config: FlatConfig,
    node_configs: Sequence[Mapping[str, Scalar]] = (),
) -> None:
    """Run both apps to the end in this process; what the server app raises is raised here."""
    allow_messages()
    grid = InlineGrid(client_app, participants, run_config, node_configs)
    context = Context(
        run_id=RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    server_app(grid, context)


def allow_messages() -> None:
    """Let instructions be created outside of a Flower task (flwr >= 1.41 refuses that)."""
    # Internal to flwr, hence the pin flwr<1.43.
    from flwr.supercore.task_identity import TaskIdentity  # noqa: PLC0415

    TaskIdentity.run_id = RUN_ID
    TaskIdentity.node_id = 0
    TaskIdentity.task_id = 1
