"""No unmarked model leaves the server: what is sent is marked for its receiver, and recorded first.

The strategy asks a :class:`Marker` for a :class:`Broadcast` of each model it sends; that adds a
participant's mark and takes it out of what the participant sends back. Whoever trains without marks
says so with :class:`Unmarked`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from smdl_flower import weights
from smdl_flower.entries import BroadcastRecord
from smdl_flower.errors import CapacityError
from smdl_flower.fingerprint import broadcast, carriers
from smdl_flower.fingerprint.embedding import CarrierMark
from smdl_flower.fingerprint.keys import CampaignKey
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


class Broadcast(Protocol):
    """One model on its way to participants and back."""

    def mark(self, node: int) -> Weights:
        """Return the model as this node is sent it."""

    def take_out(self, node: int, reply: Weights) -> Weights:
        """Return a node's reply without what it holds of the node's mark."""


class Marker(Protocol):
    """Who marks the models of a run."""

    def open(self, server_round: int, model: Weights, nodes: Sequence[int]) -> Broadcast:
        """Record that a model is about to be sent to these nodes.

        Args:
            server_round: Round of training that starts from it, the first being 1.
            model: Unmarked.
            nodes: None of them for the last model, which nobody is sent.
        """

    def identify(self, participants: Mapping[int, str]) -> None:
        """Record which participant each node says it is."""


class OwnerMarker:
    """Marks with the owner's key, and keeps what is sent in the owner's home.

    Args:
        home: Of the owner.
        spec: Architecture of the models.
        run: Id of the run; one that goes on after an interruption has the same.
        strength: alpha, root mean square of a mark in units of scale.
        public: Names of tensors that participants check and do not send back; they bear no mark.
    """

    def __init__(
        self,
        home: OwnerHome,
        spec: ModelSpec,
        run: str,
        strength: float,
        public: Sequence[str] = (),
    ) -> None:
        self._home = home
        self._spec = spec
        self._run = run
        self._strength = strength
        self._public = tuple(sorted(public))

    def open(self, server_round: int, model: Weights, nodes: Sequence[int]) -> Broadcast:
        """Keep and record a model, then return it ready to be marked.

        A first model whose matrices that come back are all constant (a head of zeros) is sent as
        it is: no training has gone into it, and it has no scale to hide a mark in.

        Raises:
            CapacityError: No tensor of a later model can bear a mark.
        """
        guarded = {name: model[name] for name in model if name not in self._public}
        campaign = self._home.key.campaign(weights.digest(guarded))
        mark = broadcast.mark_of(guarded, campaign)
        if not mark.layout.tensors and server_round == 1 and _has_matrices(guarded):
            return _UnmarkedBroadcast(model)
        if not mark.layout.tensors:
            raise CapacityError(
                "no tensor that participants send back can bear a mark; set "
                "fingerprint.mark-training = false (a model leaked in training then names nobody)"
            )
        digest = self._home.vault.keep_broadcast(model)
        # Recorded first: a model that is out but not recorded could not be traced.
        self._home.registry.record_broadcast(
            BroadcastRecord(
                model_sha256=digest,
                public=self._public,
                run=self._run,
                round=server_round,
                spec=asdict(self._spec),
                carrier_length=carriers.length_for(mark.layout.size),
                nodes=tuple(map(str, sorted(nodes))),
                key=len(self._home.keys) - 1,
            )
        )
        return _MarkedBroadcast(model, mark, campaign, self._strength)

    def identify(self, participants: Mapping[int, str]) -> None:
        """Record which participant each node says it is; its first word counts."""
        named = {str(node): participant for node, participant in participants.items()}
        self._home.registry.record_participants(self._run, named)


def _has_matrices(guarded: Weights) -> bool:
    return any(array.ndim >= 2 for array in guarded.values())


@dataclass(frozen=True)
class _MarkedBroadcast:
    model: Weights
    carrier_mark: CarrierMark
    campaign: CampaignKey
    strength: float

    def mark(self, node: int) -> Weights:
        key = broadcast.word_key(self.campaign, str(node))
        vector = broadcast.add(self.carrier_mark, key, self.strength)
        return self.carrier_mark.layout.restore(self.model, vector)

    def take_out(self, node: int, reply: Weights) -> Weights:
        key = broadcast.word_key(self.campaign, str(node))
        layout = self.carrier_mark.layout
        return layout.restore(
            reply, broadcast.take_out(self.carrier_mark, key, layout.flatten(reply))
        )


@dataclass(frozen=True)
class Unmarked:
    """Sends every model as it is: whoever leaks one cannot be named."""

    def open(self, server_round: int, model: Weights, nodes: Sequence[int]) -> Broadcast:
        """Return the model ready to be sent as it is; nothing is recorded."""
        del server_round, nodes
        return _UnmarkedBroadcast(model)

    def identify(self, participants: Mapping[int, str]) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class _UnmarkedBroadcast:
    model: Weights

    def mark(self, node: int) -> Weights:
        del node
        return self.model

    def take_out(self, node: int, reply: Weights) -> Weights:
        del node
        return reply
