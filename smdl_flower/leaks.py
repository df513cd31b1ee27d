"""Suspect -> the participants whose models of training took part in making it.

Every model sent in training is compared with the suspect, as it lies and aligned, and the word of
each participant it was sent to is tested. Verifying asks here only when no customer is accused: a
copy is made from a model that all participants helped to train.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smdl_flower import models, weights
from smdl_flower.entries import BroadcastRecord
from smdl_flower.errors import ConfigError, NotComparableError
from smdl_flower.evidence import TracedBroadcast
from smdl_flower.fingerprint import broadcast, carriers, decoys
from smdl_flower.fingerprint.accusation import Level, carrier_log_p
from smdl_flower.fingerprint.alignment import align
from smdl_flower.fingerprint.broadcast import BroadcastReading
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.fingerprint.embedding import CarrierMark
from smdl_flower.fingerprint.keys import CampaignKey
from smdl_flower.home import OwnerHome
from smdl_flower.models import ModelSpec
from smdl_flower.weights import Weights


@dataclass(frozen=True)
class SentModel:
    """One model as it was sent, in one round or (the same digest) several.

    Attributes:
        digest: SHA-256 of the unmarked model.
        public: Names of its tensors that bear no mark.
        key: Number of the master key that its marks are derived from.
        records: One for each run and round.
        later: Digests of the models of the next round in those runs.
    """

    digest: str
    public: tuple[str, ...]
    key: int
    records: tuple[BroadcastRecord, ...]
    later: tuple[str, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Everybody it was sent to, once."""
        return tuple(dict.fromkeys(node for record in self.records for node in record.nodes))


@dataclass(frozen=True)
class Leak:
    """A model sent in training that took part in a suspect.

    Attributes:
        model_id: Of the unmarked model.
        participants: Those whose words accuse, the strongest first.
        alignment: How the suspect was aligned.
        decoys: How nodes that do not exist scored.
    """

    model_id: str
    participants: tuple[TracedBroadcast, ...]
    alignment: str
    decoys: DecoySummary


@dataclass(frozen=True)
class Leaks:
    """What comparing a suspect with all models sent in training gave.

    Attributes:
        leaks: Models that took part, the strongest first.
        compared: Whether it could be compared with any.
        misfits: Why not with others.
    """

    leaks: tuple[Leak, ...] = ()
    compared: bool = False
    misfits: tuple[str, ...] = ()


def sent_models(home: OwnerHome) -> list[SentModel]:
    """Return every model that was sent to anybody, in the order of the registry."""
    records = home.registry.broadcasts()
    of_round: dict[tuple[str, int], list[str]] = {}
    for record in records:
        of_round.setdefault((record.run, record.round), []).append(record.model_sha256)
    sent: dict[tuple[str, tuple[str, ...], int], list[BroadcastRecord]] = {}
    for record in records:
        if record.nodes:
            sent.setdefault((record.model_sha256, record.public, record.key), []).append(record)
    return [
        SentModel(digest, public, key, tuple(found), tuple(_later(found, of_round)))
        for (digest, public, key), found in sent.items()
    ]


def trace(home: OwnerHome, suspect: Weights, level: Level) -> Leaks:
    """Compare a suspect with all models sent in training.

    A suspect that accuses nobody as it lies is aligned to each model and read again; both readings
    are counted in the level.

    Raises:
        NotComparableError: Decoys do not score as they must.
        IntegrityError: A model in the vault was changed.
    """
    sent, misfits, compared = sent_models(home), list[str](), False
    found: list[Leak] = []
    for read in (_as_it_lies, _aligned):
        for opened, reading in _readings(home, sent, suspect, read, misfits):
            compared = True
            found += _accused(home, opened, reading, level)
        if found:
            break
    found.sort(key=lambda leak: leak.participants[0].log10_p)
    return Leaks(tuple(found), compared, tuple(misfits))


@dataclass(frozen=True)
class _Opened:
    """A sent model with all that is needed to read a suspect against it."""

    sent: SentModel
    weights: Weights
    later: list[Weights]
    campaign: CampaignKey
    mark: CarrierMark

    @classmethod
    def of(cls, home: OwnerHome, sent: SentModel) -> "_Opened":
        model = home.vault.load_broadcast(sent.digest)
        later = [home.vault.load_broadcast(name) for name in sent.later]
        guarded = {name: model[name] for name in model if name not in sent.public}
        campaign = home.keys[sent.key].campaign(weights.digest(guarded))
        mark = broadcast.mark_of(guarded, campaign, sent.records[0].carrier_length)
        return cls(sent, model, later, campaign, mark)


_Read = Callable[[_Opened, Weights], BroadcastReading | None]


def _readings(
    home: OwnerHome, sent: list[SentModel], suspect: Weights, read: _Read, misfits: list[str]
) -> Iterator[tuple[_Opened, BroadcastReading]]:
    """One model in memory at a time: a run may have thousands of rounds."""
    for model in sent:
        opened = _Opened.of(home, model)
        try:
            reading = read(opened, suspect)
        except NotComparableError as error:
            misfits.append(f"model {model.digest[:16]} of training: {error}")
            continue
        if reading:
            yield opened, reading


def _as_it_lies(opened: _Opened, suspect: Weights) -> BroadcastReading:
    return broadcast.read(opened.mark, suspect, opened.later)


def _aligned(opened: _Opened, suspect: Weights) -> BroadcastReading | None:
    """The suspect aligned; None if there is nothing to align, or no module to align it to."""
    try:
        module = models.build(ModelSpec(**opened.sent.records[0].spec), seed=0)
    except ConfigError:  # a module of the user's own that is not installed here
        return None
    aligned = align(module, opened.weights, suspect)
    if aligned.label == "none":
        return None
    return broadcast.read(opened.mark, aligned.weights, opened.later, aligned.label)


def _accused(
    home: OwnerHome, opened: _Opened, reading: BroadcastReading, level: Level
) -> list[Leak]:
    campaign, model = opened.campaign, opened.sent
    scores = {n: reading.score(broadcast.word_key(campaign, n)) for n in model.nodes}
    named = {n: z for n, z in scores.items() if carrier_log_p(z) <= level.log_p()}
    if not named:
        return []
    # A verdict may rest on this reading. Decoys are compared with the first direction: the least
    # of several scores has a mean below zero, whatever the suspect.
    innocents = [carriers.score(key, reading.directions[0]) for key in decoys.keys(campaign)]
    participants = [
        _traced(home, record, node, named[node], level)
        for record in model.records
        for node in record.nodes
        if node in named
    ]
    ordered = tuple(sorted(participants, key=lambda p: p.log10_p))
    return [Leak(model.digest[:16], ordered, reading.alignment, decoys.check(innocents, {}))]


def _traced(
    home: OwnerHome, record: BroadcastRecord, node: str, score: float, level: Level
) -> TracedBroadcast:
    return TracedBroadcast(
        participant=home.registry.participant(record.run, node),
        node=node,
        round=record.round,
        run=record.run,
        score=score,
        log10_p=carrier_log_p(score) / math.log(10),
        threshold=level.log_p() / math.log(10),
    )


def _later(records: list[BroadcastRecord], of_round: dict[tuple[str, int], list[str]]) -> list[str]:
    following = [d for r in records for d in of_round.get((r.run, r.round + 1), [])]
    return [digest for digest in dict.fromkeys(following) if digest != records[0].model_sha256]
