"""Answers of a suspect -> verdict: black-box tracing.

A suspect behind an interface is asked the query images of each base model that has some. Its
answers are read without any knowledge of customers; then every issued word is tested, stage by
stage, and the false-accusation bound is shared among all tests of all pools, asked or not. A
thousand decoys are compared too: if they do not score as innocents must, nobody is accused.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from smdl_flower import verifying
from smdl_flower.blackbox import answering, asking
from smdl_flower.blackbox.answering import LABELS, PROBABILITIES, Interview
from smdl_flower.blackbox.asking import Answers, Predictor
from smdl_flower.errors import ConfigError, SuspectAnswersError
from smdl_flower.evidence import (
    Accusation,
    AskedQueries,
    PayloadReading,
    Suspect,
    Verdict,
)
from smdl_flower.fingerprint import decoys, tracing
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.codes import Bits
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.fingerprint.tracing import Trace
from smdl_flower.home import OwnerHome
from smdl_flower.vault import BaseModel


@dataclass(frozen=True)
class Question:
    """What a suspect is asked, and when to name somebody.

    Attributes:
        model_id: Ask the queries of this base model only; default is those of all.
        pool: Which pool, from 1. Asking discloses it.
        timeout: Seconds for a batch of images.
        batch: Images at a time.
        max_false_accusation: Bound on naming any innocent.
    """

    model_id: str | None = None
    pool: int = 1
    timeout: float = asking.TIMEOUT
    batch: int = asking.BATCH
    max_false_accusation: float = verifying.DEFAULT_BOUND


@dataclass(frozen=True)
class Hearing:
    """One base model's queries, the answers, and the word of every issued copy compared."""

    model: BaseModel
    answers: Answers
    interview: Interview
    trace: Trace
    decoys: DecoySummary

    @property
    def right(self) -> int:
        """Bits in which the best fitting word agrees."""
        return max((_agreement(self.interview, c.word) for c in self.trace.comparisons), default=0)


def question(home: OwnerHome, predictor: Predictor, name: str, what: Question) -> Verdict:
    """Ask a suspect and judge its answers.

    Args:
        home: Of the owner.
        predictor: The suspect; it may be hostile.
        name: What to call it in the verdict.
        what: To ask.

    Raises:
        SuspectAnswersError: It fails, hangs, or does not answer as a classifier does.
        IntegrityError: Registry or vault were tampered with.
        NotComparableError: Decoys do not score as they must.
        ConfigError: The bound is no probability, or no base model has such queries.
    """
    verifying.check_bound(what.max_false_accusation)
    with_queries = [m for m in home.base_models() if m.queries]
    candidates = _candidates(with_queries, what)
    # Words and pools of all, asked or not: which are asked may depend on what was seen before.
    level = Level(
        what.max_false_accusation,
        words=sum(home.registry.words(model.model_id) for model in with_queries),
        hypotheses=answering.TESTS * max(map(_pools, with_queries), default=1),
    )
    hearings, failures = [], []
    for model in candidates:
        try:
            hearings.append(_hear(home, model, predictor, what, level))
        except SuspectAnswersError as error:
            failures.append(f"model {model.model_id}: {error}")
    if not hearings:
        raise SuspectAnswersError("; ".join(failures))
    return _judge(name, hearings, level, failures)


def _candidates(models: Sequence[BaseModel], what: Question) -> list[BaseModel]:
    found = [
        m for m in models if what.model_id in (None, m.model_id) and 1 <= what.pool <= _pools(m)
    ]
    if not found:
        which = f"model {what.model_id}" if what.model_id else "any base model"
        raise ConfigError(
            f"there is no pool {what.pool} of queries of {which} in this home; copies that can be "
            "asked are issued with fingerprint.queries (smdl issue --queries) above 0"
        )
    return found


def _pools(model: BaseModel) -> int:
    return len(model.queries.pools) if model.queries else 0


def _hear(
    home: OwnerHome, model: BaseModel, predictor: Predictor, what: Question, level: Level
) -> Hearing:
    bank, campaign = model.queries, model.key(home.key)
    assert bank is not None  # noqa: S101 - candidates have queries
    pool = bank.pools[what.pool - 1]
    answers = asking.ask(
        *(predictor, pool.images, model.spec.classes), timeout=what.timeout, batch=what.batch
    )
    interview = Interview.of(bank, pool, campaign, answers)
    innocents = [interview.compare(key) for key in decoys.keys(campaign)]
    summary = decoys.check_words(
        [interview.standardised(c) for c in innocents],
        {name: [c.log_p(name) for c in innocents] for name in interview.tests},
    )
    issued = home.registry.copies(model.model_id)
    customers = [campaign.customer(copy.customer) for copy in issued]
    return Hearing(model, answers, interview, tracing.trace(interview, customers, level), summary)


def _judge(name: str, hearings: list[Hearing], level: Level, failures: list[str]) -> Verdict:
    accused = tuple(
        sorted(
            (
                a
                for hearing in hearings
                for a in verifying.accusations(hearing.model, hearing.trace.findings, "queries")
            ),
            key=lambda a: a.witnesses[0].log10_p,
        )
    )
    best = max(hearings, key=lambda h: _rank(h, accused))
    said = hashlib.sha256("".join(h.answers.digest() for h in hearings).encode()).hexdigest()
    return Verdict(
        suspect=Suspect(name, said, "predictor"),
        model_id=best.model.model_id,
        max_false_accusation=level.total,
        customers=level.words,
        hypotheses=level.hypotheses,
        accused=accused,
        payload=_payload(best, {(a.model_id, a.customer) for a in accused}),
        alignment="none",
        highest_unnamed_score=None,
        remarks=(*_remarks(hearings), *failures),
        decoys=best.decoys,
        queries=_asked(best),
    )


def _rank(hearing: Hearing, accused: tuple[Accusation, ...]) -> tuple[bool, float]:
    """The strongest accusation's model first, else the one whose words fit best."""
    named = bool(accused) and hearing.model.model_id == accused[0].model_id
    return named, hearing.right / len(hearing.interview.pool)


def _agreement(interview: Interview, word: Bits) -> int:
    return int((interview.read[LABELS] == 2.0 * word - 1.0).sum())


def _payload(hearing: Hearing, named: set[tuple[str, str]]) -> PayloadReading:
    interview = hearing.interview
    agreement = {c.customer: _agreement(interview, c.word) for c in hearing.trace.comparisons}
    accused = {customer for model, customer in named if model == hearing.model.model_id}
    return PayloadReading.of(interview.bits, agreement, accused)


def _asked(hearing: Hearing) -> AskedQueries:
    interview = hearing.interview
    return AskedQueries(
        pool=interview.pool.number,
        images=len(interview.pool),
        one_of_two=int((interview.read[LABELS] != 0).sum()),
        probabilities=PROBABILITIES in interview.read,
    )


def _remarks(hearings: list[Hearing]) -> list[str]:
    return [
        f"no copy of model {h.model.model_id} was ever issued"
        for h in hearings
        if not h.trace.comparisons
    ]
