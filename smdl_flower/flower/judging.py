"""Which replies of a round are used; whoever sent another, or none, is named."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from flwr.app import Message
from flwr.serverapp import Grid

from smdl_flower.errors import PrivacyError
from smdl_flower.flower import records, replies, weighing
from smdl_flower.flower.incidents import Incident
from smdl_flower.flower.privacy_record import PrivacyRecord
from smdl_flower.flower.provenance import code_sha256
from smdl_flower.flower.replies import InvalidReplyError
from smdl_flower.flower.seats import Seats
from smdl_flower.weights import Weights

log = logging.getLogger(__name__)

SILENT = "no reply in time"


@dataclass
class Judge:
    """Judges the replies of a run, round by round.

    Attributes:
        privacy: Judges and keeps what participants declare about their noise, if it is asked for.
        max_weight: Largest share of one reply in an average.
        report: Told about every incident.
        refused: Those of the latest round, in words.
    """

    privacy: PrivacyRecord | None
    max_weight: float
    report: Callable[[Incident], None]

    def __post_init__(self) -> None:
        self.refused: list[str] = []
        self._seats = Seats()
        self._names: dict[int, str] = {}

    def meet(self, grid: Grid) -> None:
        """Learn the names that the owner registered nodes under; a simulation has none."""
        self._names |= {info.node_id: info.name for info in grid.get_nodes() if info.name}

    def training(
        self,
        number: int,
        sent: Mapping[str, int],
        answers: Iterable[Message],
        expected: Weights,
    ) -> list[Message]:
        """Return the training replies that are used, sorted by participant.

        Args:
            number: Of the round.
            sent: Message id -> the node it went to.
            answers: What came back.
            expected: Arrays of the names, shapes and types that must come back.
        """
        terms = self.privacy.terms if self.privacy else None
        size = terms.shard_size if terms else 0
        self.refused = []
        valid: dict[int, Message] = {}
        silent = set(sent.values())
        for answer in answers:
            node = self._node(answer, sent)
            silent.discard(node)
            try:
                _require_asked(answer, sent)
                if node in valid:
                    raise InvalidReplyError("it has replied in this round already")
                replies.check_train_reply(answer, expected, code_sha256(), shard_size=size)
            except InvalidReplyError as error:
                self._refuse(number, node, answer, str(error))
            else:
                valid[node] = answer
        for node in sorted(silent):
            self._refuse(number, node, None, SILENT)
        kept = self._declared(number, self._seated(number, valid))
        self._weigh(number, kept)
        # Floating-point sums depend on the order; a resumed run must give the same model.
        return sorted(kept.values(), key=replies.participant)

    def evaluation(
        self, number: int, sent: Mapping[str, int], answers: Iterable[Message]
    ) -> list[Message]:
        """Return the evaluation replies that are used."""
        valid: dict[int, Message] = {}
        for answer in answers:
            node = self._node(answer, sent)
            try:
                _require_asked(answer, sent)
                if node in valid:
                    raise InvalidReplyError("it has replied in this round already")
                replies.check_evaluate_reply(answer)
            except InvalidReplyError as error:
                self._refuse(number, node, answer, f"evaluation: {error}")
            else:
                valid[node] = answer
        self._weigh(number, valid)
        return list(valid.values())

    def _node(self, answer: Message, sent: Mapping[str, int]) -> int:
        # Not src_node_id: an error reply on behalf of a dead node comes from the SuperLink.
        return sent.get(answer.metadata.reply_to_message_id, answer.metadata.src_node_id)

    def _seated(self, number: int, valid: Mapping[int, Message]) -> dict[int, Message]:
        claims = {node: replies.participant(answer) for node, answer in valid.items()}
        refused = self._seats.take(claims)
        for node, reason in refused.items():
            self._refuse(number, node, valid[node], reason)
        return {node: answer for node, answer in valid.items() if node not in refused}

    def _declared(self, number: int, valid: Mapping[int, Message]) -> dict[int, Message]:
        privacy = self.privacy
        if not privacy or not privacy.terms:
            return dict(valid)
        kept = {}
        for node, answer in valid.items():
            try:
                declared = replies.declaration_of(answer)
                privacy.accept(number, replies.participant(answer), declared)
            except PrivacyError as error:
                self._refuse(number, node, answer, str(error))
            else:
                kept[node] = answer
        return kept

    def _weigh(self, number: int, valid: Mapping[int, Message]) -> None:
        """Cut down numbers of examples that would count for more than one reply may."""
        metrics = {
            node: answer.content.metric_records[records.METRICS] for node, answer in valid.items()
        }
        said = [int(record[records.NUM_EXAMPLES]) for record in metrics.values()]  # type: ignore[arg-type]
        if not said:
            return
        for node, before, after in zip(
            metrics, said, weighing.truncated(said, self.max_weight), strict=True
        ):
            if after != before:
                metrics[node][records.NUM_EXAMPLES] = after
                share = 100 * before / sum(said)
                reason = (
                    f"it says that it has {before:,} images, {share:.4g} % of all in this round; "
                    f"counted as {after:,.0f} (max-weight {self.max_weight:g})"
                )
                self._note(self._incident(number, node, valid[node], reason, used=True))

    def _refuse(self, number: int, node: int, answer: Message | None, reason: str) -> None:
        incident = self._incident(number, node, answer, reason)
        self.refused.append(f"{incident.who}: {reason}")
        self._note(incident)

    def _note(self, incident: Incident) -> None:
        what = "used, but" if incident.used else "refused"
        log.warning(
            *("round %d, reply of %s %s: %s", incident.round),
            *(incident.who, what, incident.reason),
        )
        self.report(incident)

    def _incident(
        self, number: int, node: int, answer: Message | None, reason: str, *, used: bool = False
    ) -> Incident:
        claimed = replies.claimed_participant(answer) if answer else None
        participant = self._seats.of(node) or claimed
        return Incident(number, node, self._names.get(node), participant, reason, used)


def _require_asked(answer: Message, sent: Mapping[str, int]) -> None:
    if answer.metadata.reply_to_message_id not in sent:
        raise InvalidReplyError("it answers no question of this round")
