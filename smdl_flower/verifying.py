"""Suspect file -> verdict.

The suspect is compared with every base model of the owner, as it lies and aligned. Each time it is
read without any knowledge of customers; then every issued word is tested, stage by stage, and the
false-accusation bound is shared among all these tests. A thousand decoys are compared too: if they
do not score as innocents must, nobody is accused. If no customer is, :mod:`leaks` compares the
models that participants were sent in training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from smdl_flower import leaks, models
from smdl_flower.errors import ConfigError, NotComparableError
from smdl_flower.evidence import (
    NO_PAYLOAD,
    Accusation,
    PayloadReading,
    Suspect,
    Verdict,
    Witness,
)
from smdl_flower.fingerprint import codes, decoys, extraction, tracing
from smdl_flower.fingerprint.accusation import DEFAULT_BOUND, Level
from smdl_flower.fingerprint.alignment import align
from smdl_flower.fingerprint.decoders import DECODERS
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.extraction import Reading
from smdl_flower.fingerprint.renaming import without_prefix
from smdl_flower.fingerprint.tracing import Comparator, Comparison, Finding
from smdl_flower.home import OwnerHome
from smdl_flower.leaks import Leak, Leaks
from smdl_flower.suspects import reading
from smdl_flower.vault import BaseModel
from smdl_flower.weights import Weights

# All tests of a word, for the suspect as it lies and aligned; counted whether tried or not.
HYPOTHESES = 2 * tracing.TESTS
_TOLD = 3  # of a suspect's tensors


@dataclass(frozen=True)
class Examination:
    """One reading of a suspect against a base model; the word of every issued copy compared.

    Attributes:
        model: The base model.
        reading: Of the suspect.
        comparisons: One per issued copy.
        findings: Who is accused.
        decoys: How customers who were never issued a copy scored.
    """

    model: BaseModel
    reading: Reading
    comparisons: tuple[Comparison, ...]
    findings: tuple[Finding, ...]
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
        path: The suspect, a file or folder as docs/formats.md lists them; it may be hostile.
        model_id: Compare with this base model only, and with none that was sent in training;
            default is all that fit.
        max_false_accusation: Bound on naming any innocent.

    Raises:
        SuspectFileError: The file is unsafe or unsupported.
        IntegrityError: Registry or vault were tampered with.
        NotComparableError: It fits no model, or too little of it is left.
        ConfigError: The bound is no probability, or the home has no such model.
    """
    check_bound(max_false_accusation)
    suspect = reading.read(path)
    candidates = _candidates(home, model_id)
    words = sum(home.registry.words(model.model_id) for model in candidates)
    broadcasts = home.registry.broadcast_words() if model_id is None else 0
    level = Level(max_false_accusation, words=words + broadcasts, hypotheses=HYPOTHESES)
    examinations, misfits = examine(home, candidates, suspect.weights, level)
    found = Leaks()
    if broadcasts and not any(e.findings for e in examinations):
        found = leaks.trace(home, suspect.weights, level)
    if not (examinations or found.compared):
        raise NotComparableError("; ".join([*misfits, *found.misfits, _held(suspect.weights)]))
    file = Suspect(str(path), suspect.sha256, suspect.kind)
    verdict = _judge(file, examinations, level, broadcasts)
    known = (home.tracing_only,) if home.tracing_only else ()
    verdict = replace(verdict, remarks=known + suspect.remarks + verdict.remarks)
    return _with_leak(verdict, found.leaks)


def _held(suspect: Weights) -> str:
    """What a suspect holds, where that is no model of the owner's."""
    some = (f"{name[:60]!r} {list(a.shape)}" for name, a in list(suspect.items())[:_TOLD])
    more = " ..." if len(suspect) > _TOLD else ""
    return f"the suspect holds {len(suspect):,} tensors: {', '.join(some)}{more}"


def check_bound(max_false_accusation: float) -> None:
    """Raise :class:`ConfigError` unless that is a bound on naming an innocent."""
    if not 0.0 < max_false_accusation <= 0.01:
        raise ConfigError(
            f"--max-false-accusation {max_false_accusation}: expected above 0 and at most 0.01"
        )


def accusations(
    model: BaseModel, findings: Sequence[Finding], words: Literal["payload", "queries"]
) -> list[Accusation]:
    """Return what was found against customers, as a verdict tells it.

    Args:
        model: Whose copies were issued to them.
        findings: Of one reading.
        words: What codewords were read from.
    """
    return [
        Accusation(finding.customer, model.model_id, _witnesses(finding, words))
        for finding in findings
    ]


def _witnesses(finding: Finding, words: Literal["payload", "queries"]) -> tuple[Witness, ...]:
    return tuple(
        Witness(
            evidence="carrier" if test.name == tracing.CARRIER else words,
            score=test.score,
            log10_p=test.log_p / math.log(10),
            threshold=finding.threshold / math.log(10),
            test=test.name,
            stage=finding.stage,
        )
        for test in finding.tests
    )


def examine(
    home: OwnerHome, candidates: Sequence[BaseModel], suspect: Weights, level: Level
) -> tuple[list[Examination], list[str]]:
    """Read a suspect against each base model and compare all issued words.

    A suspect that accuses nobody as it lies is aligned to each base model and read again. That the
    second reading depends on the outcome of the first costs nothing: both are counted.

    Returns:
        One examination per reading, and why other base models do not fit.

    Raises:
        NotComparableError: Decoys do not score as they must.
    """
    examinations: list[Examination] = []
    misfits: list[str] = []
    marked = [(model, home.mark(model)) for model in candidates]
    for read in (as_it_lies, aligned):
        for model, mark in marked:
            try:
                reading = read(model, mark, suspect)
            except NotComparableError as error:
                misfits.append(f"model {model.model_id}: {error}")
                continue
            if reading:
                examinations.append(_compare_all(home, model, mark, reading, level))
        if any(e.findings for e in examinations):
            break
    return examinations, misfits


def as_it_lies(model: BaseModel, mark: Mark, suspect: Weights) -> Reading:
    """Read a suspect as it is.

    Raises:
        NotComparableError: It does not fit, or too little of it is left.
    """
    bare = without_prefix(model.weights, suspect)
    return (
        extraction.read(mark, suspect) if bare is None else extraction.read(mark, bare, "renamed")
    )


def aligned(model: BaseModel, mark: Mark, suspect: Weights) -> Reading | None:
    """Align a suspect and read it; None if there is nothing to align, or no module to align it to.

    Raises:
        NotComparableError: As :func:`as_it_lies`.
    """
    try:
        module = models.build(model.spec, seed=0)
    except ConfigError:  # a module of the user's own that is not installed here
        return None
    found = align(module, model.weights, suspect)
    if found.label == "none":
        return None
    return extraction.read(mark, found.weights, found.label)


def _compare_all(
    home: OwnerHome, model: BaseModel, mark: Mark, reading: Reading, level: Level
) -> Examination:
    campaign = home.campaign(model)
    comparator = Comparator(mark, reading)
    innocents = [comparator.compare(key) for key in decoys.keys(campaign)]
    summary = decoys.check(
        [c.carrier_score for c in innocents],
        {name: [c.log_p(name) for c in innocents] for name in DECODERS},
    )
    issued = home.registry.copies(model.model_id)
    customers = [campaign.customer(copy.customer) for copy in issued]
    trace = tracing.trace(comparator, customers, level)
    return Examination(model, reading, trace.comparisons, trace.findings, summary)


def _candidates(home: OwnerHome, model_id: str | None) -> list[BaseModel]:
    candidates = [m for m in home.base_models() if model_id in (None, m.model_id)]
    if not candidates and (model_id or not home.registry.broadcasts()):
        raise ConfigError(
            f"model {model_id} is not in {home.path}"
            if model_id
            else f"{home.path} holds no issued model yet; run a scenario or smdl issue first"
        )
    return candidates


def _judge(
    suspect: Suspect, examinations: list[Examination], level: Level, broadcasts: int
) -> Verdict:
    accused = _merged(
        [a for e in examinations for a in accusations(e.model, e.findings, "payload")]
    )
    closest = _closest(examinations, accused)
    named = {(a.model_id, a.customer) for a in accused}
    scores: dict[tuple[str, str], float] = {}
    for e in examinations:
        for c in e.comparisons:
            who = (e.model.model_id, c.customer)
            scores[who] = max(c.carrier_score, scores.get(who, -math.inf))
    return Verdict(
        suspect=suspect,
        model_id=closest.model.model_id if closest else "",
        max_false_accusation=level.total,
        customers=level.words - broadcasts,
        hypotheses=level.hypotheses,
        accused=accused,
        payload=_payload(closest, named) if closest else NO_PAYLOAD,
        alignment=closest.reading.alignment if closest else "none",
        highest_unnamed_score=max(
            (z for who, z in scores.items() if who not in named), default=None
        ),
        remarks=tuple(_remarks(examinations)),
        decoys=closest.decoys if closest else None,
        carrier_scores=tuple(sorted(scores.values())),
        broadcasts=broadcasts,
    )


def _with_leak(verdict: Verdict, found: Sequence[Leak]) -> Verdict:
    """The verdict with the participants who are named, and the reading that names the first."""
    if not found:
        return verdict
    return replace(
        verdict,
        model_id=found[0].model_id,
        alignment=found[0].alignment,
        decoys=found[0].decoys,
        participants=tuple(p for leak in found for p in leak.participants),
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


def _closest(
    examinations: list[Examination], accused: tuple[Accusation, ...]
) -> Examination | None:
    """The reading of the strongest accusation's model with the highest score, or of any."""
    of = [e for e in examinations if not accused or e.model.model_id == accused[0].model_id]
    return max(of, key=Examination.best_score, default=None)


def _payload(examination: Examination, named: set[tuple[str, str]]) -> PayloadReading:
    bits = examination.reading.bits
    agreement = {c.customer: int((c.word == bits).sum()) for c in examination.comparisons}
    accused = {customer for model, customer in named if model == examination.model.model_id}
    return PayloadReading.of(codes.to_text(bits), agreement, accused)


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
