"""Answers of a suspect -> verdict: black-box tracing.

A suspect behind an interface is asked the query images of each base model that has some. Its
answers are read without any knowledge of customers; then every issued word is tested, stage by
stage, and the false-accusation bound is shared among all tests of all pools, asked or not. A
thousand decoys are compared too: if they do not score as innocents must, nobody is accused.

Whoever is asked a pool knows its images. The registry keeps who that is, so that the next suspect
is asked another one.
"""

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from smdl_flower import disclosure, verifying
from smdl_flower.blackbox import answering, asking, querylog, recorded
from smdl_flower.blackbox.answering import LABELS, PROBABILITIES, Interview
from smdl_flower.blackbox.asking import Answers, Predictor
from smdl_flower.blackbox.queries import Pool
from smdl_flower.blackbox.querylog import QueryLog, Subject
from smdl_flower.blackbox.recorded import Heard
from smdl_flower.entries import AskedRecord
from smdl_flower.errors import ConfigError, SuspectAnswersError
from smdl_flower.evidence import (
    Accusation,
    AskedQueries,
    PayloadReading,
    Suspect,
    Verdict,
    WordScores,
)
from smdl_flower.fingerprint import decoys, tracing
from smdl_flower.fingerprint.accusation import DEFAULT_BOUND, Level
from smdl_flower.fingerprint.codes import Bits
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.fingerprint.tracing import Trace
from smdl_flower.home import OwnerHome
from smdl_flower.vault import BaseModel

# The base model's answers all are, and nearly all of a copy's; 20 % of a guesser's of ten classes.
_FAMILIAR = 0.75


@dataclass(frozen=True)
class Question:
    """What a suspect is asked, and when to name somebody.

    Attributes:
        model_id: Ask the queries of this base model only; default is those of all.
        pool: Which pool, from 1; default is the one this suspect was asked before, else one that
            nobody was. Asking discloses it.
        timeout: Seconds for a batch of images.
        batch: Images at a time.
        max_false_accusation: Bound on naming any innocent.
        logs: Folder of the logs of answers; None keeps none.
        approach: How the suspect is asked, in words; a log of another way is not used.
    """

    model_id: str | None = None
    pool: int | None = None
    timeout: float = asking.TIMEOUT
    batch: int = asking.BATCH
    max_false_accusation: float = DEFAULT_BOUND
    logs: Path | None = None
    approach: str = ""


@dataclass(frozen=True)
class Hearing:
    """One base model's queries, the answers, and the word of every issued copy compared.

    Attributes:
        model: The base model.
        answers: Of the suspect.
        interview: What they say.
        trace: Who is accused.
        decoys: How customers who were never issued a copy scored.
        remarks: What a reader should know of the asking.
    """

    model: BaseModel
    answers: Answers
    interview: Interview
    trace: Trace
    decoys: DecoySummary
    remarks: tuple[str, ...]

    @property
    def right(self) -> int:
        """Bits in which the best fitting word agrees."""
        return max((_agreement(self.interview, c.word) for c in self.trace.comparisons), default=0)


def question(home: OwnerHome, predictor: Predictor, name: str, what: Question) -> Verdict:
    """Ask a suspect and judge its answers.

    Args:
        home: Of the owner.
        predictor: The suspect; it may be hostile.
        name: What to call it in the verdict, the registry and its log.
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
            hearings.append(_hear(home, model, _Asked(predictor, name), what, level))
        except SuspectAnswersError as error:
            failures.append(f"model {model.model_id}: {error}")
    if not hearings:
        raise SuspectAnswersError("; ".join(failures))
    return _judge(name, hearings, level, failures)


def _candidates(models: Sequence[BaseModel], what: Question) -> list[BaseModel]:
    found = [
        m
        for m in models
        if what.model_id in (None, m.model_id) and what.pool in (None, *range(1, _pools(m) + 1))
    ]
    if not found:
        which = f"model {what.model_id}" if what.model_id else "any base model"
        pool = "pool" if what.pool is None else f"pool {what.pool}"
        raise ConfigError(
            f"there is no {pool} of queries of {which} in this home; copies that can be "
            "asked are issued with fingerprint.queries (smdl issue --queries) above 0"
        )
    return found


def _pools(model: BaseModel) -> int:
    return len(model.queries.pools) if model.queries else 0


@dataclass(frozen=True)
class _Asked:
    """The suspect and its name."""

    predictor: Predictor
    name: str


def _hear(
    home: OwnerHome, model: BaseModel, suspect: _Asked, what: Question, level: Level
) -> Hearing:
    bank, campaign = model.queries, home.campaign(model)
    assert bank is not None  # noqa: S101 - candidates have queries
    before = home.registry.asked(model.model_id)
    number = what.pool or disclosure.choose_pool(before, len(bank.pools), suspect.name)
    pool, asked = bank.pools[number - 1], AskedRecord(model.model_id, number, suspect.name)
    home.registry.record_asked(asked)
    remarks = disclosure.remarks(before, asked, len(bank.pools))
    with _log(home, model, pool, suspect.name, what) as log:
        answers = _ask(suspect.predictor, pool, model.spec.classes, what, log)
        if log and log.kept:
            remarks += (
                f"{log.kept} of {len(pool)} answers are from {log.path}, begun {log.begun}, and "
                "were not asked for again; to ask anew, ask another pool or move that log away",
            )
    interview = Interview.of(bank, pool, campaign, answers)
    innocents = [interview.compare(key) for key in decoys.keys(campaign)]
    summary = decoys.check_words(
        [interview.standardised(c) for c in innocents],
        {name: [c.log_p(name) for c in innocents] for name in interview.tests},
    )
    issued = home.registry.copies(model.model_id)
    customers = [campaign.customer(copy.customer) for copy in issued]
    trace = tracing.trace(interview, customers, level)
    return Hearing(model, answers, interview, trace, summary, remarks)


def _log(
    home: OwnerHome, model: BaseModel, pool: Pool, suspect: str, what: Question
) -> AbstractContextManager[QueryLog | None]:
    if what.logs is None:
        return nullcontext()
    images = hashlib.sha256(pool.images.tobytes()).hexdigest()
    classes = model.spec.classes
    subject = Subject(model.model_id, pool.number, images, classes, suspect, what.approach)
    return querylog.opened(what.logs, home.key_of(model.model_id), subject)


def _ask(
    predictor: Predictor, pool: Pool, classes: int, what: Question, log: QueryLog | None
) -> Answers:
    try:
        return asking.ask(
            *(predictor, pool.images, classes), timeout=what.timeout, batch=what.batch, log=log
        )
    except SuspectAnswersError as error:
        if log is None or not log.rows:
            raise
        raise SuspectAnswersError(
            f"{error}; {len(log.rows)} of {len(pool)} answers are kept, ask again to go on"
        ) from None


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
    heard = tuple(Heard(h.model.model_id, h.interview.pool.number, h.answers) for h in hearings)
    return Verdict(
        suspect=Suspect(name, recorded.digest(heard), "predictor"),
        model_id=best.model.model_id,
        max_false_accusation=level.total,
        customers=level.words,
        hypotheses=level.hypotheses,
        accused=accused,
        payload=_payload(best, {(a.model_id, a.customer) for a in accused}),
        alignment="none",
        highest_unnamed_score=None,
        remarks=(*_remarks(hearings), *(r for h in hearings for r in h.remarks), *failures),
        decoys=best.decoys,
        queries=asked(best.interview),
        heard=heard,
        word_scores=_word_scores(best, level),
    )


def _word_scores(hearing: Hearing, level: Level) -> WordScores:
    interview = hearing.interview
    values = tuple(sorted(interview.standardised(c) for c in hearing.trace.comparisons))
    return WordScores(values, interview.accuses_from(level))


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


def asked(interview: Interview) -> AskedQueries:
    """Return what was asked and how it was answered, as a verdict says it."""
    return AskedQueries(
        pool=interview.pool.number,
        images=len(interview.pool),
        one_of_two=int((interview.read[LABELS] != 0).sum()),
        probabilities=PROBABILITIES in interview.read,
    )


def _remarks(hearings: list[Hearing]) -> list[str]:
    remarks = []
    for h in hearings:
        if not h.trace.comparisons:
            remarks.append(f"no copy of model {h.model.model_id} was ever issued")
        known = asked(h.interview).one_of_two
        if known < _FAMILIAR * len(h.interview.pool):
            remarks.append(
                f"only {known} of {len(h.interview.pool)} answers are among the base model's two "
                "likeliest: another model, or one that is not given the images as they are (see "
                "--pixels)"
            )
    return remarks
