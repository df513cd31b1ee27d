"""FingerprintStrategy: any Flower strategy, marks on all it sends, and a fingerprint round."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from smdl_flower.errors import FederationError
from smdl_flower.flower import pulling, records
from smdl_flower.flower.averaging import Averaging
from smdl_flower.flower.incidents import Incident
from smdl_flower.flower.judging import Judge
from smdl_flower.flower.marking import Broadcast, Marker, Unmarked
from smdl_flower.flower.presence import Presence
from smdl_flower.flower.privacy_record import PrivacyRecord
from smdl_flower.flower.replies import participant
from smdl_flower.own_images import Terms
from smdl_flower.privacy.partition import PrivacyPartition
from smdl_flower.weights import Weights

log = logging.getLogger(__name__)

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


class Issuer(Protocol):
    """What happens to the base model after the last round of training."""

    def issue(self, base: Weights, grid: Grid) -> None:
        """Fingerprint the base model, or hand it to whoever will.

        Args:
            base: The base model w0.
            grid: Reaches the participants; w0 goes to none of them.
        """


class RoundObserver(Protocol):
    """Who is told about each completed round: metrics, checkpoints, progress."""

    def round_done(self, server_round: int, model: Weights, metrics: dict[str, float]) -> None:
        """Record a round; ``metrics`` are the aggregated and the server-side ones."""


@dataclass(frozen=True)
class RoundRules:
    """What every training round must keep.

    Attributes:
        min_replies: Valid replies without which the run stops.
        learning_rate: Server round (from 1) -> the participants' learning rate.
        completed: Rounds an interrupted run had completed; this one goes on after them.
        partition: Only its GUARDED tensors come back and are aggregated; None: all do.
        privacy: Judges and keeps what participants declare about their noise, if it is asked for.
        averaging: What is released; training goes on with the plain model.
        images: What participants with images of their own are told that these must be.
        presence: Whom a round waits for; None: as the inner strategy does.
        max_weight: Largest share of one reply in an average.
        report: Told about every reply that is refused, or counts for less than its sender says.
    """

    min_replies: int
    learning_rate: Callable[[int], float]
    completed: int = 0
    partition: PrivacyPartition | None = None
    privacy: PrivacyRecord | None = None
    averaging: Averaging = field(default_factory=lambda: Averaging("none", 0))
    images: Terms | None = None
    presence: Presence | None = None
    max_weight: float = 1.0
    report: Callable[[Incident], None] = lambda _: None

    def guarded(self, model: Weights) -> Weights:
        """Return the tensors that participants send back."""
        return self.partition.select(model) if self.partition else model

    def complete(self, guarded: Weights, before: Weights) -> Weights:
        """Return the whole model, with the PUBLIC tensors it had before."""
        return self.partition.join(guarded, before) if self.partition else guarded


class FingerprintStrategy(Strategy):
    """Trains with another strategy, then has its result fingerprinted.

    Every model that is sent is marked for its receiver, and the mark taken out of what comes back.
    Replies are checked before the inner strategy sees them, and a round with fewer than the
    required valid ones raises: in Flower a run in which all clients fail would end as a success.
    All message handling is the inner strategy's own, so FedAvg, FedProx, FedAdam, Krum ... work
    unchanged.

    Args:
        inner: Any Message-API strategy that does not override ``start``.
        issuer: Receives the final model.
        marker: Marks what is sent; ``Unmarked()`` must be asked for.
        rules: Of every round.
        observers: Told about each completed round, in order.

    Raises:
        FederationError: From :meth:`start`, if too few replies are valid or no model came back.
    """

    def __init__(
        self,
        inner: Strategy,
        issuer: Issuer,
        marker: Marker,
        *,
        rules: RoundRules,
        observers: Iterable[RoundObserver] = (),
    ) -> None:
        if type(inner).start is not Strategy.start:
            raise FederationError(
                f"{type(inner).__name__} has a training loop of its own and cannot be wrapped"
            )
        self._inner = inner
        self._issuer = issuer
        self._marker = marker
        self._rules = rules
        self._observers = tuple(observers)
        self._judge = Judge(rules.privacy, rules.max_weight, rules.report)
        self._progress = _Progress()

    def start(  # Flower's own signature  # noqa: PLR0913, PLR0917
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Train for ``num_rounds`` rounds in all, resumed ones included, then fingerprint."""
        pulling.fetch_one_by_one(grid)
        self._progress = _Progress(records.from_record(initial_arrays), num_rounds)

        def after_round(round_here: int, arrays: ArrayRecord) -> MetricRecord | None:
            return self._after_round(round_here, arrays, evaluate_fn)

        remaining = max(0, num_rounds - self._rules.completed)
        result = super().start(
            *(grid, initial_arrays, remaining, timeout),
            *(train_config, evaluate_config, after_round),
        )
        if remaining == 0:
            result.arrays = initial_arrays
        if not result.arrays:
            raise FederationError("no model came back from training; see the participants' logs")
        base = self._rules.averaging.current(records.from_record(result.arrays))
        result.arrays = records.to_record(base)
        self._marker.open(num_rounds + 1, base, [])
        self._issuer.issue(base, grid)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy choose nodes, set the learning rate, and mark what is sent."""
        number = server_round + self._rules.completed
        self._await_nodes(grid, first=server_round == 1)
        self._judge.meet(grid)
        config[records.LEARNING_RATE] = self._rules.learning_rate(number)
        if self._rules.partition:
            config[records.PARTITION_SHA256] = self._rules.partition.sha256()
        if self._rules.images:
            records.put_terms(config, self._rules.images)
        # The inner strategy knows of the GUARDED tensors only: it may compare what it sent with
        # what it gets. Participants get the whole model.
        guarded = records.to_record(self._rules.guarded(records.from_record(arrays)))
        messages = list(self._inner.configure_train(number, guarded, config, grid))
        for message in messages:
            message.content[records.ARRAYS] = arrays
        self._progress.ask(messages)
        self._progress.broadcast = self._mark(number, arrays, messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate the valid replies, without what they hold of the participants' marks.

        Raises:
            FederationError: There are fewer than required, or they aggregate to nothing.
        """
        number = server_round + self._rules.completed
        expected = self._rules.guarded(self._progress.model)
        valid = self._judge.training(number, self._progress.sent, replies, expected)
        asked = len(self._progress.asked)
        if len(valid) < self._rules.min_replies:
            reasons = "; ".join(self._judge.refused)
            raise FederationError(
                f"round {number}: {len(valid)} valid replies of {asked} asked, min-replies is "
                f"{self._rules.min_replies} ({reasons[:1000]})"
            )
        self._take_out(valid)
        arrays, metrics = self._inner.aggregate_train(number, valid)
        if not arrays:
            raise FederationError(f"round {number}: the strategy returned no model")
        self._progress.metrics = {"replies": float(len(valid)), **_plain(metrics)}
        return self._as_expected(arrays), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the inner strategy choose who evaluates; nobody after the last round.

        What would be sent then is the base model: several of its receivers together could tell a
        copy's mark from its weights. Who evaluates a model and trains it in the next round is sent
        the same twice.
        """
        number = server_round + self._rules.completed
        if number >= self._progress.rounds:
            return []
        if self._rules.images:
            records.put_terms(config, self._rules.images)
        self._await_nodes(grid, first=False)
        messages = list(self._inner.configure_evaluate(number, arrays, config, grid))
        self._progress.ask(messages)
        self._mark(number + 1, arrays, messages)
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate the participants' own valid evaluations."""
        number = server_round + self._rules.completed
        valid = self._judge.evaluation(number, self._progress.sent, replies)
        metrics = self._inner.aggregate_evaluate(number, valid)
        self._progress.metrics |= {f"participants-{k}": v for k, v in _plain(metrics).items()}
        return metrics

    def summary(self) -> None:
        """Log the inner strategy's settings and ours."""
        log.info("training with %s, then fingerprinting", type(self._inner).__name__)
        self._inner.summary()

    def _await_nodes(self, grid: Grid, *, first: bool) -> None:
        if self._rules.presence:
            self._rules.presence.await_round(grid, first=first)

    def _after_round(
        self, round_here: int, arrays: ArrayRecord, evaluate_fn: EvaluateFn | None
    ) -> MetricRecord | None:
        if round_here == 0:  # Flower asks for the initial model too: not a round
            return None
        number = round_here + self._rules.completed
        model = records.from_record(arrays)
        released = records.to_record(self._rules.averaging.update(number, model))
        metrics = evaluate_fn(number, released) if evaluate_fn else None
        line = {**self._progress.metrics, **_plain(metrics)}
        for observer in self._observers:
            observer.round_done(number, model, line)
        return metrics

    def _mark(self, number: int, arrays: ArrayRecord, messages: list[Message]) -> Broadcast:
        """Give each message its own marked model; the inner strategy's share one record."""
        for message in messages:
            if dict(message.content.array_records) != {records.ARRAYS: arrays}:
                raise FederationError(
                    f"{type(self._inner).__name__} sends other arrays than the global model, which "
                    "cannot be marked"
                )
        nodes = [message.metadata.dst_node_id for message in messages]
        broadcast = self._marker.open(number, records.from_record(arrays), nodes)
        for node, message in zip(nodes, messages, strict=True):
            message.content = records.with_arrays(message.content, broadcast.mark(node))
        return broadcast

    def _take_out(self, replies: list[Message]) -> None:
        """Take each participant's mark out of its valid reply."""
        participants, sent = {}, self._progress.sent
        for reply in replies:
            node = sent[reply.metadata.reply_to_message_id]
            arrays = records.from_record(reply.content.array_records[records.ARRAYS])
            taken_out = self._progress.broadcast.take_out(node, arrays)
            reply.content = records.with_arrays(reply.content, taken_out)
            participants[node] = str(int(participant(reply)))
        self._marker.identify(participants)

    def _as_expected(self, arrays: ArrayRecord) -> ArrayRecord:
        """The whole model in its own types: some strategies compute in double precision."""
        before = self._progress.model
        guarded = {k: a.astype(before[k].dtype) for k, a in records.from_record(arrays).items()}
        if not all(np.isfinite(array).all() for array in guarded.values()):
            raise FederationError(
                f"{type(self._inner).__name__} made a model with NaN or infinite values; a "
                "participant sent enormous ones: see docs/configuration.md, Robust strategies"
            )
        return records.to_record(self._rules.complete(guarded, before))


@dataclass
class _Progress:
    """What is under way in the current round."""

    model: Weights = field(default_factory=dict)  # the one the run began with
    rounds: int = 0
    asked: list[Metadata] = field(default_factory=list)
    broadcast: Broadcast = field(default_factory=lambda: Unmarked().open(0, {}, []))
    metrics: dict[str, float] = field(default_factory=dict)

    def ask(self, messages: Iterable[Message]) -> None:
        """Remember who is asked; not the messages: each holds a model of its own."""
        self.asked = [message.metadata for message in messages]

    @property
    def sent(self) -> dict[str, int]:
        """Which node each message of the round went to; Flower numbers them as it sends them."""
        return {asked.message_id: asked.dst_node_id for asked in self.asked}


def _plain(metrics: MetricRecord | None) -> dict[str, Any]:
    return {k: v for k, v in (metrics or {}).items() if not isinstance(v, list)}
