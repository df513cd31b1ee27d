"""A suspect's answers heard anew by a judge: asked again, or as the owner recorded them.

Of the base model nothing is shown but the pool that was asked: images, and the two classes told
apart at each, as committed to before copies went out. Of each accused customer one codeword is
opened, that for this pool; its key, and with it carrier and all other words, stays closed. Words of
a flat code are judged, whose bits are fair by definition; no secret bias is needed, and nothing
that is shown helps to test another customer's word.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smdl_flower import commitments, confirming, questioning
from smdl_flower.blackbox import answering, asking, recorded
from smdl_flower.blackbox.answering import Interview
from smdl_flower.blackbox.asking import Answers, Predictor
from smdl_flower.blackbox.queries import Bank, Pool
from smdl_flower.commitments import Commitment
from smdl_flower.confirming import Basis, Bits, Confirmation
from smdl_flower.errors import IntegrityError, SmdlError
from smdl_flower.evidence import AskedQueries
from smdl_flower.evidence_package import ANSWERS, POOL, WORDS, WORDS_FORMAT
from smdl_flower.fingerprint import codes, decoys
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.fingerprint.keys import OpenedCustomer, OpenedStreams
from smdl_flower.opening import (
    LONG,
    SHAPELESS,
    Package,
    check_about,
    check_opened,
    content,
    document,
)


@dataclass(frozen=True)
class Asking:
    """How a judge asks a suspect.

    Attributes:
        predictor: The suspect.
        timeout: Seconds for a batch of images.
        batch: Images at a time.
    """

    predictor: Predictor
    timeout: float = asking.TIMEOUT
    batch: int = asking.BATCH


@dataclass(frozen=True)
class Opened:
    """What was disclosed of one pool, found to be what was committed to.

    Attributes:
        pool: Images and answers.
        classes: Of the model.
        code: Of the codewords.
        customers: With the words that were opened.
        commitment: The statement.
    """

    pool: Pool
    classes: int
    code: Code
    customers: tuple[OpenedCustomer, ...] = field(repr=False)
    commitment: Commitment


@dataclass(frozen=True)
class Reheard:
    """What hearing a suspect anew gave, at one pool.

    Attributes:
        commitment: The statement that was used.
        confirmations: One for each accused.
        decoys: How customers who do not exist scored.
        bits: As read, and the opened words.
        asked: What was asked and how it was answered.
        agreeing: Of the recorded labels, how many were said.
    """

    commitment: Commitment
    confirmations: tuple[Confirmation, ...]
    decoys: DecoySummary
    bits: Bits
    asked: AskedQueries
    agreeing: int


def records(package: Package) -> dict[str, Answers]:
    """Return the recorded answers to each base model's pool.

    Raises:
        IntegrityError: They are damaged, or not those that the verdict is about.
    """
    heard = recorded.parse(document(package.folder / ANSWERS, LONG))
    if recorded.digest(heard) != package.suspect_sha256:
        raise IntegrityError("the recorded answers are not those that the evidence is about")
    return {h.model_id: h.answers for h in heard}


def rehear(
    package: Package, model_id: str, record: Answers | None, suspect: Asking | None
) -> Reheard:
    """Hear a suspect anew and compare the opened words of those accused of a base model's copy.

    Args:
        package: The evidence.
        model_id: Of the base model.
        record: What the suspect said to the owner, as that wrote it down.
        suspect: To ask anew; None judges the record.

    Raises:
        IntegrityError: What is disclosed is not what was committed to.
        SuspectAnswersError: The suspect fails, hangs, or does not answer as a classifier does.
        NotComparableError: Decoys do not score as they must.
    """
    opened = _opened(package, model_id)
    if {key.customer for key in opened.customers} != package.accused_of(model_id):
        raise IntegrityError(f"model {model_id}: other words are opened than of the accused")
    if record is None or not _fits(record, opened):
        raise IntegrityError(f"model {model_id}: the recorded answers are not to this pool")
    said = _ask(opened, suspect) if suspect else record
    biases = np.full(len(opened.pool), 0.5)
    bank = Bank(opened.code, (opened.pool,))
    interview = Interview(bank, opened.pool, biases, answering.soft_bits(opened.pool, said))
    hypotheses = answering.TESTS * len(opened.commitment.predicate["pools"])
    level = package.level(opened.commitment, hypotheses)
    basis = Basis(model_id, "queries", "none", level)
    return Reheard(
        opened.commitment,
        confirming.confirm(interview, opened.customers, basis),
        _check_decoys(interview, bytes.fromhex(opened.commitment.digest)),
        bits=Bits(model_id, ((basis.alignment, interview.bits),), _words(opened, interview)),
        asked=questioning.asked(interview),
        agreeing=int((said.labels == record.labels).sum()),
    )


def _words(opened: Opened, interview: Interview) -> dict[str, str]:
    pairs = ((key, interview.compare(key).word) for key in opened.customers)
    return {key.customer: codes.to_text(word) for key, word in pairs}


def _ask(opened: Opened, suspect: Asking) -> Answers:
    return asking.ask(
        *(suspect.predictor, opened.pool.images, opened.classes),
        timeout=suspect.timeout,
        batch=suspect.batch,
    )


def _fits(record: Answers, opened: Opened) -> bool:
    shape = (len(opened.pool), opened.classes)
    told = record.probabilities
    return (
        record.labels.shape == shape[:1]
        and bool((record.labels < opened.classes).all())
        and (told is None or told.shape == shape)
    )


def _check_decoys(interview: Interview, seed: bytes) -> DecoySummary:
    compared = [interview.compare(key) for key in confirming.decoy_keys(seed)]
    return decoys.check_words(
        [interview.standardised(c) for c in compared],
        {name: [c.log_p(name) for c in compared] for name in interview.tests},
    )


def _opened(package: Package, model_id: str) -> Opened:
    place = package.place(model_id)
    words = document(place / WORDS)
    images = content(place / POOL, LONG)
    commitment = package.committed(model_id)
    try:
        return _as_committed(commitment, words, images)
    except IntegrityError:
        raise
    except (*SHAPELESS, SmdlError):
        raise IntegrityError(f"model {model_id}: {WORDS} or its commitment is damaged") from None


def _as_committed(commitment: Commitment, words: dict[str, Any], images: bytes) -> Opened:
    stated = commitment.predicate
    check_about(words, WORDS_FORMAT, commitment)
    number, code, spec = int(words["pool"]), Code(**stated["query_code"]), stated["spec"]
    if number < 1:
        raise IndexError(number)
    committed = stated["pools"][number - 1]
    shape = (code.length, int(spec["channels"]), int(spec["image_size"]), int(spec["image_size"]))
    pixels = np.frombuffer(images, np.uint8).reshape(shape)
    pool = Pool(number, pixels, np.array(words["answers"], np.int64))
    if pool.digest() != committed["sha256"]:
        raise IntegrityError("another pool of queries was committed to")
    if code.kind != "flat":
        raise IntegrityError(f"words of a {code.kind} code cannot be judged without its biases")
    customers = tuple(
        _word(entry, pool, committed["merkle_root"], int(stated["customers"]))
        for entry in words["customers"]
    )
    return Opened(pool, int(spec["classes"]), code, customers, commitment)


def _word(entry: dict[str, Any], pool: Pool, root: str, count: int) -> OpenedCustomer:
    """A customer with the one word that was opened, if it is the one committed to."""
    name, secret = str(entry["customer"]), bytes.fromhex(entry["secret"])
    check_opened(commitments.word_leaf(name, pool.number, secret), entry, root, count)
    return OpenedCustomer(name, OpenedStreams({pool.word_label: secret}))
