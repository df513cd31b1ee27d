"""What an examination found, as data, as JSON (smdl-verdict/1) and in words."""

import platform
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any, Literal

from smdl_flower.blackbox.recorded import Heard
from smdl_flower.fingerprint.decoys import DecoySummary

FORMAT = "smdl-verdict/1"
EXIT_NAMED, EXIT_NOBODY = 0, 10

NOT_SHOWN = (
    "who leaked: the evidence says that the copy issued to a customer, or the model sent to a "
    "participant, took part in making the suspect, also if it was stolen or merged with consent",
    "who a participant is: a participant is what the institution at that node said it is",
    "more than one examination: the bound holds for each suspect examined",
    "anything, if the master key or a customer's key is known to somebody else",
)
# Of docs/analysis.md, in the words of docs/threat_model.md.
ASSUMPTIONS = (
    "Fingerprints are secret and independent: nobody but the owner knows another customer's.",
    "They were derived after the base model was fixed, which was not trained from marked copies.",
    "The suspect was read without looking at any customer's fingerprint or copy.",
    "Every fingerprint issued and every test made is counted; so is every suspect, if several were "
    "examined until one accused somebody.",
    "Keys, base model, number of customers and the way of reading were fixed before the suspect "
    "existed. A published or time-stamped commitment shows that.",
    "The copy took part in making the suspect: that is not to say that its customer passed it on. "
    "It may have been stolen, or merged with consent.",
)
ASKED_NOT_SHOWN = (
    "that a model whose answers name nobody is no copy: a model that was trained anew on a copy's "
    "answers has lost them",
    "what the predictor really is: it may hand some questions to other models",
)


@dataclass(frozen=True)
class Suspect:
    """What was examined: a file, or a predictor that was asked.

    Attributes:
        path: Of the file, or name of the predictor.
        sha256: Of the file's bytes, or of the answers.
        kind: The file's format (docs/formats.md), or ``predictor``.
    """

    path: str
    sha256: str
    kind: str


@dataclass(frozen=True)
class Event:
    """A step of the chain of custody.

    Attributes:
        at: When, UTC, ISO 8601; empty if it is not known.
        what: In words.
        sha256: Of what it is about, hexadecimal; empty if there is nothing to compare.
    """

    at: str
    what: str
    sha256: str = ""


@dataclass(frozen=True)
class Witness:
    """One test that spoke against a customer.

    Attributes:
        evidence: ``carrier``, ``payload`` or ``queries``.
        score: z of the carrier, or a codeword's integer score.
        log10_p: Bound on the chance that an innocent scores as much.
        threshold: Largest log10 p that accuses at that stage.
        test: ``carrier``, the decoder of the payload, or decoder and kind of answers.
        stage: Of the accusation process, from 1; later ones know who was accused before.
    """

    evidence: Literal["carrier", "payload", "queries"]
    score: float
    log10_p: float
    threshold: float
    test: str
    stage: int

    def label(self) -> str:
        """Return evidence and test in words.

        Example:
            >>> Witness("payload", 9051, -40.2, -9.1, "symmetric", 2).label()
            'payload (symmetric), stage 2'
        """
        which = f" ({self.test})" if self.test != self.evidence else ""
        return f"{self.evidence}{which}" + (f", stage {self.stage}" if self.stage > 1 else "")


@dataclass(frozen=True)
class Accusation:
    """A customer who is named, the strongest witness first."""

    customer: str
    model_id: str
    witnesses: tuple[Witness, ...]


@dataclass(frozen=True)
class TracedBroadcast:
    """A model sent in training that took part in the suspect.

    Attributes:
        participant: What the node said it is; None if it never sent a valid reply.
        node: Flower's id of the node it was sent to.
        round: Round of training that it was the start of, from 1.
        run: Id of the run.
        score: z of the participant's word.
        log10_p: Bound on the chance that an innocent scores as much.
        threshold: Largest log10 p that accuses.
    """

    participant: str | None
    node: str
    round: int
    run: str
    score: float
    log10_p: float
    threshold: float

    @property
    def who(self) -> str:
        """The participant in words."""
        return f"participant {self.participant}" if self.participant else f"node {self.node}"

    def to_json(self) -> dict[str, Any]:
        """Return the entry specified in docs/formats.md."""
        return {**asdict(self), "evidence": "carrier"}


@dataclass(frozen=True)
class PayloadReading:
    """The bits as read, and how well the best codeword fits; named only if it accuses."""

    bits: str
    best_match: str | None
    matching_bits: int
    bit_error_rate: float

    @classmethod
    def of(
        cls, bits: str, agreement: Mapping[str, int], accused: Container[str]
    ) -> "PayloadReading":
        """Compare the bits with all words.

        Args:
            bits: As read.
            agreement: Bits that each customer's word has in common with them.
            accused: Who may be named.

        Example:
            >>> PayloadReading.of("0101", {"clinic-a": 3, "clinic-b": 1}, accused=())
            PayloadReading(bits='0101', best_match=None, matching_bits=3, bit_error_rate=0.25)
        """
        best = max(agreement, key=agreement.__getitem__, default="")
        matching = agreement.get(best, 0)
        # The best of many innocents always fits somewhat: it is named only where it accuses.
        named = best if best in accused else None
        return cls(bits, named, matching, 1 - matching / len(bits))


@dataclass(frozen=True)
class AskedQueries:
    """What a predictor was asked.

    Attributes:
        pool: Number of the pool, from 1.
        images: How many query images.
        one_of_two: Answers that are one of the two classes told apart at the image.
        probabilities: Whether it told probabilities.
    """

    pool: int
    images: int
    one_of_two: int
    probabilities: bool


@dataclass(frozen=True)
class WordScores:
    """What the words of all customers scored in the first test, in deviations of an innocent's.

    Attributes:
        values: Without names, ascending.
        accuses_from: The first test's threshold on this scale.
    """

    values: tuple[float, ...]
    accuses_from: float


NO_PAYLOAD = PayloadReading("", None, 0, 1.0)  # no copy of any model was ever issued


@dataclass(frozen=True)
class Verdict:
    """The outcome of one examination.

    Attributes:
        suspect: What was examined.
        model_id: Base model that fits it best, or the model sent in training that names the
            participant; empty if there is neither.
        max_false_accusation: Bound on naming any innocent.
        customers: Customers' words that the bound is shared among, N.
        hypotheses: Tests per word, K.
        accused: May be empty; that is a result.
        payload: Of the best fitting base model.
        alignment: How the suspect was aligned.
        highest_unnamed_score: Largest carrier score of a customer who is not named.
        remarks: What else a reader should know.
        decoys: How customers or nodes that do not exist scored against that model.
        carrier_scores: Of all customers, without their names, ascending; for the plot.
        participants: Models sent in training that took part, the strongest first.
        broadcasts: Participants' words that the bound is shared among as well.
        queries: What a predictor was asked; None for a file.
        heard: What it said, to each model's pool.
        word_scores: Of a predictor, what all customers' words scored; for the plot.
        custody: Commitments, delivery, how the suspect came, in order.
    """

    suspect: Suspect
    model_id: str
    max_false_accusation: float
    customers: int
    hypotheses: int
    accused: tuple[Accusation, ...]
    payload: PayloadReading
    alignment: str
    highest_unnamed_score: float | None
    remarks: tuple[str, ...]
    decoys: DecoySummary | None
    carrier_scores: tuple[float, ...] = ()
    participants: tuple[TracedBroadcast, ...] = ()
    broadcasts: int = 0
    queries: AskedQueries | None = None
    heard: tuple[Heard, ...] = field(default=(), repr=False)
    word_scores: WordScores | None = None
    custody: tuple[Event, ...] = ()

    @property
    def words(self) -> int:
        """All words that the bound is shared among."""
        return self.customers + self.broadcasts

    @property
    def names_somebody(self) -> bool:
        """Whether a customer or a participant is named."""
        return bool(self.accused or self.participants)

    @property
    def exit_code(self) -> int:
        """0 if somebody is named, 10 if nobody is."""
        return EXIT_NAMED if self.names_somebody else EXIT_NOBODY

    def to_json(self) -> dict[str, Any]:
        """Return the document specified in docs/formats.md."""
        return {
            "format": FORMAT,
            "suspect": asdict(self.suspect),
            "model_id": self.model_id,
            "max_false_accusation": self.max_false_accusation,
            "customers": self.customers,
            "broadcasts": self.broadcasts,
            "hypotheses": self.hypotheses,
            "accused": [_accusation_json(accusation) for accusation in self.accused],
            "participants": [broadcast.to_json() for broadcast in self.participants],
            "payload": asdict(self.payload),
            "alignment": self.alignment,
            "highest_unnamed_score": self.highest_unnamed_score,
            "decoys": _decoys_json(self.decoys) if self.decoys else None,
            **({"queries": asdict(self.queries)} if self.queries else {}),
            "custody": [asdict(event) for event in self.custody],
            "remarks": list(self.remarks),
            "not_shown": list(self.not_shown),
            "versions": versions(),
        }

    @property
    def not_shown(self) -> tuple[str, ...]:
        """What the verdict does not say."""
        return (*NOT_SHOWN, *ASKED_NOT_SHOWN) if self.queries else NOT_SHOWN

    def summary(self) -> str:
        """Return the verdict in one sentence."""
        bound = f"{self.max_false_accusation:g}"
        noun = "model" if self.queries else "file"
        if not self.names_somebody:
            return (
                f"Nobody is named: no customer's or participant's fingerprint is found at a chance "
                f"of {bound} or less of naming any innocent."
            )
        return (
            f"{self._what()} took part in making this {noun} (chance of naming any innocent: "
            f"at most {bound})."
        )

    def _what(self) -> str:
        """What took part, as the subject of a sentence."""
        if self.accused:
            noun = "The copy" if len(self.accused) == 1 else "Copies"
            return f"{noun} issued to {', '.join(a.customer for a in self.accused)}"
        noun = "The model" if len(self.participants) == 1 else "Models"
        rounds: dict[tuple[str, str], list[str]] = {}
        for sent in self.participants:
            rounds.setdefault((sent.who, sent.run), []).append(str(sent.round))
        clauses = [
            f"{who} was sent for round{'s' if len(numbers) > 1 else ''} {' and '.join(numbers)} of "
            f"run {run}"
            for (who, run), numbers in rounds.items()
        ]
        return f"{noun} that {' and that '.join(clauses)}"


def versions() -> dict[str, str]:
    """Return the versions of everything a figure may depend on."""
    packages = ("smdl-flower", "numpy", "scipy", "torch", "safetensors", "cryptography")
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}}


def _decoys_json(decoys: DecoySummary) -> dict[str, Any]:
    return {**asdict(decoys), "histogram": list(decoys.histogram)}


def _accusation_json(accusation: Accusation) -> dict[str, Any]:
    strongest, *others = accusation.witnesses
    return {
        "customer": accusation.customer,
        "model_id": accusation.model_id,
        **asdict(strongest),
        "other_witnesses": [asdict(witness) for witness in others],
    }
