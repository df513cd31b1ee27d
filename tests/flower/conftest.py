"""Participants that answer as a test wants, on a grid without Ray."""

from collections.abc import Callable

import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from smdl_flower.flower import inline, records
from smdl_flower.weights import Weights

Answer = Callable[[Message, int], Message]


@pytest.fixture(autouse=True)
def _allow_messages():
    inline.allow_messages()


@pytest.fixture
def grid_of():
    """Return a function: how each of n participants answers -> a grid of them."""

    def make(*answers: Answer, evaluate: Answer | None = None) -> inline.InlineGrid:
        app = ClientApp()

        @app.train()
        def train(message: Message, context: Context) -> Message:
            participant = int(context.node_config["partition-id"])
            return answers[participant](message, participant)

        @app.evaluate()
        def evaluate_(message: Message, context: Context) -> Message:
            participant = int(context.node_config["partition-id"])
            if evaluate:
                return evaluate(message, participant)
            metrics = MetricRecord({"num-examples": 5, "eval-accuracy": 0.5, "eval-loss": 1.0})
            content = RecordDict({records.METRICS: metrics})
            return Message(content, reply_to=message)

        return inline.InlineGrid(app, len(answers), {})

    return make


class RememberingIssuer:
    """An issuer that keeps what it is given."""

    def __init__(self) -> None:
        self.bases: list[Weights] = []

    def issue(self, base: Weights, _grid: Grid) -> None:
        self.bases.append(base)


@pytest.fixture
def issuer() -> RememberingIssuer:
    return RememberingIssuer()
