"""Flower's strategies that choose replies by their distances, given updates in place of weights.

Flower computes ``|x - y|^2`` as ``|x|^2 + |y|^2 - 2 x.y`` in single precision. Of whole models the
first two terms are thousands of times what is left: of a ResNet-18 whose updates are 1e-4 of a
weight large, distances are wrong by up to 42 %, and rounding chooses. Distances between updates are
the same, without that loss (relative errors of 1e-6).
"""

from collections.abc import Iterable

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Bulyan, FedAvg, Krum, MultiKrum

from smdl_flower.flower import records
from smdl_flower.weights import Weights


class _OfUpdates(FedAvg):
    """Takes what was sent out of each reply, and adds it to the result."""

    _sent: Weights

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember what is sent."""
        self._sent = records.from_record(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate updates, and return a model."""
        updates = list(replies)
        for reply in updates:
            arrays = records.from_record(reply.content.array_records[records.ARRAYS])
            moved = {name: array - self._sent[name] for name, array in arrays.items()}
            reply.content = records.with_arrays(reply.content, moved)
        result, metrics = super().aggregate_train(server_round, updates)
        if result is None:
            return None, metrics
        moved = records.from_record(result)
        return records.to_record({n: a + self._sent[n] for n, a in moved.items()}), metrics


class KrumOfUpdates(_OfUpdates, Krum):
    """Krum: the one reply that is nearest to its neighbours."""


class MultiKrumOfUpdates(_OfUpdates, MultiKrum):
    """Multi-Krum: the mean of several such replies."""


class BulyanOfUpdates(_OfUpdates, Bulyan):
    """Bulyan: of several such replies, in each weight the mean of those nearest to the median."""
