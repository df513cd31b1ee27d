"""Suspect file -> verdict.

The suspect is compared with every base model of the owner that has its shapes. For each, it is
read without any knowledge of customers; then every issued word is tested twice (carrier and
payload), and the false-accusation bound is shared among all these tests. A thousand decoys are
compared too: if they do not score as innocents must, nobody is accused.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smdl_flower import weights
from smdl_flower.errors import ConfigError, NotComparableError
from smdl_flower.evidence import Accusation, PayloadReading, Suspect, Verdict, Witness
from smdl_flower.fingerprint import carriers, codes, decoys, extraction
from smdl_flower.fingerprint.accusation import Level, PayloadTest, carrier_log_p
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.fingerprint.extraction import Reading
from smdl_flower.fingerprint.keys import CustomerKey
from smdl_flower.home import OwnerHome
from smdl_flower.vault import BaseModel
from smdl_flower.weights import ModelFile, Weights

HYPOTHESES = 2  # carrier and payload, each without alignment
DEFAULT_BOUND = 1e-6


@dataclass(frozen=True)
class Comparison:
    """One customer's word against a suspect.

    Attributes:
        customer: Whose word.
        carrier_score: z.
        payload_score: Integer score of the codeword.
        payload_log_p: ln of its exact p-value.
        matching_bits: Hard bits that agree.
    """

    customer: str
    carrier_score: float
    payload_score: int
    payload_log_p: float
    matching_bits: int


@dataclass(frozen=True)
class Examination:
    """A suspect read against one base model, and the word of every issued copy compared.

    Attributes:
        model: The base model.
        reading: Of the suspect.
        comparisons: One per issued copy.
        words: Words ever derived for this model, N; those of refused copies count too.
        decoys: How customers who were never issued a copy scored.
    """

    model: BaseModel
    reading: Reading
    comparisons: tuple[Comparison, ...]
    words: int
    decoys: DecoySummary

    def best_score(self) -> float:
        """Return the largest carrier score; minus infinity if there are no customers."""
        return max((c.carrier_score for c in self.comparisons), default=-math.inf)


def verify(
    home: OwnerHome,
    path: Path,
    *,
    model_id: str | None = None,
    max_false_accusation: float = DEFAULT_BOUND,
) -> Verdict:
    """Examine a suspect file.

    Args:
        home: Of the owner.
        path: The suspect, a safetensors file; it may be hostile.
        model_id: Compare with this base model only; default is all that fit.
        max_false_accusation: Bound on naming any innocent.

    Raises:
        SuspectFileError: The file is unsafe or unsupported.
        IntegrityError: Registry or vault were tampered with.
        NotComparableError: It fits no base model, or too little of it is left.
        ConfigError: The bound is no probability, or the home has no such model.
    """
    if not 0.0 < max_false_accusation <= 0.01:
        raise ConfigError(
            f"--max-false-accusation {max_false_accusation}: expected above 0 and at most 0.01"
        )
    suspect = weights.read(path)
    candidates = _candidates(home, model_id)
    examinations = examine(home, candidates, suspect.weights)
    return _judge(path, suspect, examinations, max_false_accusation)


def examine(
    home: OwnerHome, candidates: Sequence[BaseModel], suspect: Weights
) -> list[Examination]:
    """Read a suspect against each base model that fits it and compare all issued words.

    Raises:
        NotComparableError: None fits (the message says what was expected and found), or decoys do
            not score as they must.
    """
    examinations, misfits = [], []
    for model in candidates:
        mark = model.mark(home.key)
        try:
            reading = extraction.read(mark, suspect)
        except NotComparableError as error:
            misfits.append(f"model {model.model_id}: {error}")
            continue
        examinations.append(_compare_all(home, model, reading, mark.biases))
    if not examinations:
        raise NotComparableError("; ".join(misfits))
    return examinations


def _compare_all(
    home: OwnerHome, model: BaseModel, reading: Reading, biases: codes.Biases
) -> Examination:
    campaign = model.key(home.key)
    test = PayloadTest(reading.soft_bits, biases)

    def compare(key: CustomerKey) -> Comparison:
        word = codes.codeword(key, biases)
        score = test.score(word)
        return Comparison(
            customer=key.customer,
            carrier_score=carriers.score(key, reading.direction),
            payload_score=score,
            payload_log_p=test.log_p(score),
            matching_bits=int((word == reading.bits).sum()),
        )

    innocents = [compare(key) for key in decoys.keys(campaign)]
    summary = decoys.check(
        [c.carrier_score for c in innocents], [c.payload_log_p for c in innocents]
    )
    issued = home.registry.copies(model.model_id)
    comparisons = tuple(compare(campaign.customer(copy.customer)) for copy in issued)
    words = home.registry.words(model.model_id)
    return Examination(model, reading, comparisons, words, summary)


def _candidates(home: OwnerHome, model_id: str | None) -> list[BaseModel]:
    models = [m for m in home.base_models() if model_id in (None, m.model_id)]
    if not models:
        raise ConfigError(
            f"model {model_id} is not in {home.path}"
            if model_id
            else f"{home.path} holds no issued model yet; run a scenario or smdl issue first"
        )
    return models


def _judge(
    path: Path, suspect: ModelFile, examinations: list[Examination], bound: float
) -> Verdict:
    words = sum(e.words for e in examinations)
    level = Level(total=bound, words=words, hypotheses=HYPOTHESES)
    accused = sorted(
        (a for e in examinations for a in _accusations(e, level)),
        key=lambda a: a.witnesses[0].log10_p,
    )
    closest = _closest(examinations, accused)
    named = {(a.model_id, a.customer) for a in accused}
    unnamed = [
        c.carrier_score
        for e in examinations
        for c in e.comparisons
        if (e.model.model_id, c.customer) not in named
    ]
    return Verdict(
        suspect=Suspect(str(path), suspect.sha256, "safetensors"),
        model_id=closest.model.model_id,
        max_false_accusation=bound,
        customers=words,
        hypotheses=HYPOTHESES,
        accused=tuple(accused),
        payload=_payload(closest, {c for m, c in named if m == closest.model.model_id}),
        alignment=closest.reading.alignment,
        highest_unnamed_score=max(unnamed, default=None),
        remarks=tuple(_remarks(examinations)),
        decoys=closest.decoys,
        carrier_scores=tuple(sorted(c.carrier_score for e in examinations for c in e.comparisons)),
    )


def _closest(examinations: list[Examination], accused: list[Accusation]) -> Examination:
    """The base model of the strongest accusation, or else of the highest score."""
    if accused:
        return next(e for e in examinations if e.model.model_id == accused[0].model_id)
    return max(examinations, key=Examination.best_score)


def _accusations(examination: Examination, level: Level) -> list[Accusation]:
    threshold = level.log_p() / math.log(10)
    accusations = []
    for c in examination.comparisons:
        tests = (
            Witness("carrier", c.carrier_score, carrier_log_p(c.carrier_score), threshold),
            Witness("payload", c.payload_score, c.payload_log_p, threshold),
        )
        in_decades = [
            Witness(t.evidence, t.score, t.log10_p / math.log(10), threshold) for t in tests
        ]
        witnesses = sorted(
            (w for w in in_decades if w.log10_p <= threshold), key=lambda w: w.log10_p
        )
        if witnesses:
            model_id = examination.model.model_id
            accusations.append(Accusation(c.customer, model_id, tuple(witnesses)))
    return accusations


def _payload(examination: Examination, named: set[str]) -> PayloadReading:
    length = examination.model.code_length
    best = max(examination.comparisons, key=lambda c: c.matching_bits, default=None)
    matching = best.matching_bits if best else 0
    return PayloadReading(
        bits=codes.to_text(examination.reading.bits),
        # The best of many innocents always fits somewhat: it is named only where it accuses.
        best_match=best.customer if best and best.customer in named else None,
        matching_bits=matching,
        bit_error_rate=1 - matching / length,
    )


def _remarks(examinations: list[Examination]) -> list[str]:
    remarks = []
    for e in examinations:
        if e.reading.equals_base:
            remarks.append(
                f"every marked weight that is not zero equals base model {e.model.model_id}: the "
                "suspect is unmarked, from the owner or from somebody who has the base model"
            )
        if e.reading.erased > 0.0:
            remarks.append(f"{e.reading.erased:.1%} of the marked weights are zero")
        if not e.comparisons:
            remarks.append(f"no copy of model {e.model.model_id} was ever issued")
    return remarks
