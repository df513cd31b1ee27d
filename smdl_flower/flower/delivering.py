"""The owner's side of a delivery: find which node is which customer, hand over, keep the receipt.

Nothing here can fail a run: a copy that is not delivered stays in the run folder, and the outcome
says why, so that the owner can hand it over by other means.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from smdl_flower import delivery, weights
from smdl_flower.delivery import Session
from smdl_flower.entries import DeliveryRecord
from smdl_flower.errors import DeliveryError, SmdlError
from smdl_flower.flower import parcels
from smdl_flower.issuing import IssueResult
from smdl_flower.nodekeys import NodePublicKey
from smdl_flower.registry import Registry

log = logging.getLogger(__name__)

BATCH_BYTES = 256 << 20  # copies that are in memory and on their way at once
GROUP = "delivery"  # Flower wants messages to be in one
NO_KEY = "no public key is registered; say: smdl customer key NAME --public-key FILE"
NO_NODE = "no connected node proved to have its key"


@dataclass(frozen=True)
class Outcome:
    """What became of handing a customer its copy.

    Attributes:
        customer: Whose copy it is.
        node: Flower's id of the node that proved to have the customer's key; None if none did.
        delivered: Whether it signed for the copy.
        reason: Why it was not delivered; empty if it was.
    """

    customer: str
    node: str | None
    delivered: bool
    reason: str


@dataclass(frozen=True)
class _Recipient:
    """A node that proved to have a customer's key."""

    customer: str
    key: NodePublicKey
    session: Session

    @property
    def node(self) -> int:
        return int(self.session.node)

    def outcome(self, reason: str) -> Outcome:
        return Outcome(self.customer, self.session.node, not reason, reason)


@dataclass(frozen=True)
class Deliverer:
    """Hands copies to those connected nodes that have their customers' keys.

    Attributes:
        registry: Knows the customers' public keys, and keeps their receipts.
        run: Our id of the run.
        timeout: Seconds to wait for answers.
    """

    registry: Registry
    run: str
    timeout: float

    def deliver(
        self, grid: Grid, model_id: str, copies: Sequence[IssueResult]
    ) -> tuple[Outcome, ...]:
        """Hand over the copies that were issued; return an outcome for each of them."""
        issued = {copy.customer: copy for copy in copies if copy.path}
        keys = {name: key for name, key in self.registry.public_keys().items() if name in issued}
        outcomes = {name: Outcome(name, None, False, NO_KEY) for name in issued}
        recipients, not_found = self._identify(grid, keys)
        outcomes |= not_found
        for batch in _batches(recipients, issued):
            outcomes |= self._hand_over(grid, model_id, batch)
        for outcome in outcomes.values():
            log.info("copy of %s: %s", outcome.customer, outcome.reason or "delivered")
        return tuple(outcomes.values())

    def _identify(
        self, grid: Grid, keys: Mapping[str, NodePublicKey]
    ) -> tuple[list[_Recipient], dict[str, Outcome]]:
        """Ask all nodes who they are; each customer has one node, or an outcome that says why not.

        Two nodes with one key: one of them has it without right, and nobody can tell which.
        """
        challenges = {n: delivery.new_challenge() for n in (grid.get_node_ids() if keys else ())}
        questions = {
            node: grid.create_message(
                parcels.write({parcels.CHALLENGE: challenge}), parcels.PRESENT, node, GROUP
            )
            for node, challenge in challenges.items()
        }
        found: dict[str, list[_Recipient]] = {name: [] for name in keys}
        problems = []
        for node, reply in self._exchange(grid, questions).items():
            run = str(questions[node].metadata.run_id)
            try:
                recipient = _recipient(run, node, challenges[node], reply, keys)
            except DeliveryError as error:
                problems.append(f"node {node}: {error}")
            else:
                found[recipient.customer].append(recipient)
        return (
            [those[0] for those in found.values() if len(those) == 1],
            {n: _not_found(n, those, problems) for n, those in found.items() if len(those) != 1},
        )

    def _hand_over(
        self, grid: Grid, model_id: str, batch: Sequence[tuple[_Recipient, IssueResult]]
    ) -> dict[str, Outcome]:
        outcomes, packed = {}, {}
        for to, copy in batch:
            try:
                content = _pack(to.session, copy)
            except (SmdlError, OSError) as error:
                outcomes[to.customer] = to.outcome(f"the copy cannot be packed: {error}")
            else:
                packed[to.node] = grid.create_message(content, parcels.RECEIVE, to.node, GROUP)
        replies = self._exchange(grid, packed)
        for to, copy in batch:
            if to.node in packed:
                reason = self._settle(model_id, to, copy, replies.get(to.node))
                outcomes[to.customer] = to.outcome(reason)
        return outcomes

    def _settle(
        self, model_id: str, to: _Recipient, copy: IssueResult, reply: Message | None
    ) -> str:
        """Check and record a receipt; return what is wrong with it, empty if nothing is."""
        if reply is None:
            return "the node did not say in time whether it has the copy"
        try:
            fields = parcels.read_reply(reply, parcels.SHA256, parcels.SIGNATURE)
            signature = fields[parcels.SIGNATURE]
            if fields[parcels.SHA256] != copy.sha256:
                raise DeliveryError("the receipt is for another copy")
            delivery.check_receipt(to.session, to.key, copy.sha256, signature)
            statement = to.session.statement("receipt", copy.sha256)
            self.registry.record_delivery(
                DeliveryRecord(
                    *(model_id, to.customer, copy.sha256, self.run, statement, signature)
                )
            )
        except SmdlError as error:
            return str(error)
        return ""

    def _exchange(self, grid: Grid, messages: Mapping[int, Message]) -> dict[int, Message]:
        """Send each node its message; return the replies, by the node that was asked."""
        try:
            replies = list(grid.send_and_receive(messages.values(), timeout=self.timeout))
        except Exception:  # whatever befell the connection: the copies are issued, the run is done
            log.exception("delivery: no answers")
            return {}
        # Not by src_node_id: an error reply on behalf of a dead node comes from the SuperLink.
        asked = {message.metadata.message_id: node for node, message in messages.items()}
        answered = ((asked.get(r.metadata.reply_to_message_id), r) for r in replies)
        return {node: reply for node, reply in answered if node is not None}


def _recipient(
    run: str, node: int, challenge: str, reply: Message, keys: Mapping[str, NodePublicKey]
) -> _Recipient:
    names = (parcels.NONCE, parcels.KEY, parcels.SEAL_TO, parcels.SIGNATURE)
    fields = parcels.read_reply(reply, *names)
    customers = {key.fingerprint: name for name, key in keys.items()}
    customer = customers.get(fields[parcels.KEY])
    if customer is None:
        raise DeliveryError("it has the key of no customer with a copy")
    key = keys[customer]
    session = Session(
        run=run,
        node=str(node),
        challenge=challenge,
        nonce=fields[parcels.NONCE],
        key=key.fingerprint,
        seal_to=fields[parcels.SEAL_TO],
    )
    delivery.check_answer(session, key, fields[parcels.SIGNATURE])
    return _Recipient(customer, key, session)


def _pack(session: Session, copy: IssueResult) -> RecordDict:
    assert copy.path  # noqa: S101 - for the type checker
    content = copy.path.read_bytes()
    if weights.digest(weights.parse(content, "it").weights) != copy.sha256:
        raise DeliveryError("it was changed since it was issued")
    sealed = delivery.pack(session, content, copy.sha256)
    return parcels.write(
        {parcels.CHALLENGE: session.challenge, parcels.SHA256: copy.sha256}, sealed
    )


def _batches(
    recipients: Sequence[_Recipient], issued: Mapping[str, IssueResult]
) -> Iterator[list[tuple[_Recipient, IssueResult]]]:
    """Split what is to be sent, so that a batch fits into memory; each has one copy at least."""
    batch: list[tuple[_Recipient, IssueResult]] = []
    size = 0
    for recipient in recipients:
        copy = issued[recipient.customer]
        length = copy.path.stat().st_size if copy.path and copy.path.exists() else 0
        if batch and size + length > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((recipient, copy))
        size += length
    if batch:
        yield batch


def _not_found(name: str, those: Sequence[_Recipient], problems: Sequence[str]) -> Outcome:
    if those:
        nodes = " and ".join(str(recipient.node) for recipient in those)
        return Outcome(name, None, False, f"nodes {nodes} both have its key: one has stolen it")
    shown = f" ({'; '.join(problems[:5])})" if problems else ""
    return Outcome(name, None, False, NO_NODE + shown)
