"""Suspect file -> verdict.

The suspect is compared with every base model of the owner, as it lies and aligned. Each time it is
read without any knowledge of customers; then every issued word is tested twice (carrier and
payload), and the false-accusation bound is shared among all these tests. A thousand decoys are
compared too: if they do not score as innocents must, nobody is accused.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smdl_flower import models, weights
from smdl_flower.errors import ConfigError, NotComparableError
from smdl_flower.evidence import Accusation, PayloadReading, Suspect, Verdict, Witness
from smdl_flower.fingerprint import carriers, codes, decoys, extraction
from smdl_flower.fingerprint.accusation import Level, PayloadTest, carrier_log_p
from smdl_flower.fingerprint.alignment import align
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.extraction import Reading
from smdl_flower.fingerprint.keys import CustomerKey
from smdl_flower.home import OwnerHome
from smdl_flower.vault import BaseModel
from smdl_flower.weights import ModelFile, Weights

# Carrier and payload, for the suspect as it lies and aligned; counted whether tried or not.
HYPOTHESES = 4
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
    """One reading of a suspect against a base model; the word of every issued copy compared.

    Attributes:
        model: The base model.
        reading: Of the suspect.
        comparisons: One per issued copy.
        decoys: How customers who were never issued a copy scored.
    """

    model: BaseModel
    reading: Reading
    comparisons: tuple[Comparison, ...]
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
    words = sum(home.registry.words(model.model_id) for model in candidates)
    level = Level(total=max_false_accusation, words=words, hypotheses=HYPOTHESES)
    examinations = examine(home, candidates, suspect.weights, level)
    return _judge(path, suspect, examinations, level)


def examine(
    home: OwnerHome, candidates: Sequence[BaseModel], suspect: Weights, level: Level
) -> list[Examination]:
    """Read a suspect against each base model and compare all issued words.

    A suspect that accuses nobody as it lies is aligned to each base model and read again. That the
    second reading depends on the outcome of the first costs nothing: both are counted.

    Raises:
        NotComparableError: No base model fits (the message says what was expected and found), or
            decoys do not score as they must.
    """
    examinations: list[Examination] = []
    misfits: list[str] = []
    marked = [(model, model.mark(home.key)) for model in candidates]
    for read in (_as_it_lies, _aligned):
        for model, mark in marked:
            try:
                reading = read(model, mark, suspect)
            except NotComparableError as error:
                misfits.append(f"model {model.model_id}: {error}")
                continue
            if reading:
                examinations.append(_compare_all(home, model, reading, mark.biases))
        if any(_accusations(e, level) for e in examinations):
            break
    if not examinations:
        raise NotComparableError("; ".join(misfits))
    return examinations


def _as_it_lies(_: BaseModel, mark: Mark, suspect: Weights) -> Reading:
    return extraction.read(mark, suspect)


def _aligned(model: BaseModel, mark: Mark, suspect: Weights) -> Reading | None:
    """The suspect aligned; None if there is nothing to align, or no module to align it to."""
    try:
        module = models.build(model.spec, seed=0)
    except ConfigError:  # a module of the user's own that is not installed here
        return None
    aligned = align(module, model.weights, suspect)
    if aligned.label == "none":
        return None
    return extraction.read(mark, aligned.weights, aligned.label)


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
    return Examination(model, reading, comparisons, summary)


def _candidates(home: OwnerHome, model_id: str | None) -> list[BaseModel]:
    candidates = [m for m in home.base_models() if model_id in (None, m.model_id)]
    if not candidates:
        raise ConfigError(
            f"model {model_id} is not in {home.path}"
            if model_id
            else f"{home.path} holds no issued model yet; run a scenario or smdl issue first"
        )
    return candidates


def _judge(
    path: Path, suspect: ModelFile, examinations: list[Examination], level: Level
) -> Verdict:
    accused = _merged([a for e in examinations for a in _accusations(e, level)])
    closest = _closest(examinations, accused)
    named = {(a.model_id, a.customer) for a in accused}
    scores: dict[tuple[str, str], float] = {}
    for e in examinations:
        for c in e.comparisons:
            who = (e.model.model_id, c.customer)
            scores[who] = max(c.carrier_score, scores.get(who, -math.inf))
    return Verdict(
        suspect=Suspect(str(path), suspect.sha256, "safetensors"),
        model_id=closest.model.model_id,
        max_false_accusation=level.total,
        customers=level.words,
        hypotheses=level.hypotheses,
        accused=accused,
        payload=_payload(closest, {c for m, c in named if m == closest.model.model_id}),
        alignment=closest.reading.alignment,
        highest_unnamed_score=max(
            (z for who, z in scores.items() if who not in named), default=None
        ),
        remarks=tuple(_remarks(examinations)),
        decoys=closest.decoys,
        carrier_scores=tuple(sorted(scores.values())),
    )


def _merged(accusations: list[Accusation]) -> tuple[Accusation, ...]:
    """One accusation per customer and model, the strongest first."""
    witnesses: dict[tuple[str, str], list[Witness]] = {}
    for a in accusations:
        witnesses.setdefault((a.customer, a.model_id), []).extend(a.witnesses)
    merged = [
        Accusation(customer, model_id, tuple(sorted(found, key=lambda w: w.log10_p)))
        for (customer, model_id), found in witnesses.items()
    ]
    return tuple(sorted(merged, key=lambda a: a.witnesses[0].log10_p))


def _closest(examinations: list[Examination], accused: tuple[Accusation, ...]) -> Examination:
    """The reading of the strongest accusation's model with the highest score, or of any."""
    of = [e for e in examinations if not accused or e.model.model_id == accused[0].model_id]
    return max(of, key=Examination.best_score)


def _accusations(examination: Examination, level: Level) -> list[Accusation]:
    threshold = level.log_p() / math.log(10)
    accusations = []
    for c in examination.comparisons:
        log10_carrier = carrier_log_p(c.carrier_score) / math.log(10)
        log10_payload = c.payload_log_p / math.log(10)
        tests = (
            Witness("carrier", c.carrier_score, log10_carrier, threshold),
            Witness("payload", c.payload_score, log10_payload, threshold),
        )
        witnesses = tuple(w for w in tests if w.log10_p <= threshold)
        if witnesses:
            accusations.append(Accusation(c.customer, examination.model.model_id, witnesses))
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
