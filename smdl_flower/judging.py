"""Compute an accusation anew from an evidence package and the suspect, and from nothing else.

Neither registry nor master key is needed, and the owner is not believed: the base model or pool of
queries, the way of reading and each opened secret must be what was committed to before copies went
out; the bound is the one committed to, shared among at least as many customers. The suspect is read
or asked here. A thousand decoys, whose keys anybody can derive from the commitment, are scored as
well: if they are not as innocents must be, nothing is confirmed.

Two halves: :mod:`smdl_flower.rereading` of weights, :mod:`smdl_flower.rehearing` of answers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography import x509

from smdl_flower import confirming, rehearing, rereading, signing
from smdl_flower.commitments import Commitment
from smdl_flower.confirming import Confirmation
from smdl_flower.errors import ConfigError, IntegrityError
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.opening import Package
from smdl_flower.rehearing import Asking, Reheard
from smdl_flower.rereading import Reread
from smdl_flower.suspects.reading import read as read_suspect

FILE = "the suspect's file, read here"
ASKED = "the suspect's answers, asked for anew here"
RECORDED = (
    "answers that the owner recorded: who the suspect is and what it said is the owner's word"
)

# A lying owner could have chosen images that any good model answers as one customer's copy does.
CONTROL = "name a model of yours, which is nobody's, as --predictor: nothing may be confirmed of it"


@dataclass(frozen=True)
class Trust:
    """What a judge knows beforehand, the more the better.

    Attributes:
        key: A signing key that the owner published, hexadecimal, the newest or one that it took
            over from. Without it the package's own is used:
            then compare :attr:`Judgement.key_id` with the published one.
        published: Digest of the newest commitment that is known to have been published before the
            leak. Without it a statement may be newer: then see :attr:`Judgement.committed_at`.
        authorities: Certificates of time-stamping authorities that are trusted.
    """

    key: str | None = None
    published: str | None = None
    authorities: Sequence[x509.Certificate] = ()


@dataclass(frozen=True)
class Judgement:
    """The outcome.

    Attributes:
        key_id: Of the key that signed the package; compare it with the published one.
        earlier_key_ids: Of those that it took over from, the first one first.
        suspect_sha256: Of the file that was read, or of the recorded answers.
        rests_on: What was compared: :data:`FILE`, :data:`ASKED` or :data:`RECORDED`.
        max_false_accusation: Bound on naming any innocent.
        words: Fingerprints that the bound is shared among.
        commitment_sha256: Digest of the newest statement that was used.
        committed_at: When that says it was made.
        confirmations: One for each accusation of the verdict.
        decoys: How customers who do not exist scored, in the reading of the first.
        agreeing: Of the recorded answers, how many were said when asked anew; None if not asked.
        images: How many were asked.
        stamped_at: By when the statements that were used existed, as a time-stamping authority
            says; empty if there is no stamp, or nobody said which authority is trusted.
    """

    key_id: str
    suspect_sha256: str
    rests_on: str
    max_false_accusation: float
    words: int
    commitment_sha256: str
    committed_at: str
    confirmations: tuple[Confirmation, ...]
    decoys: DecoySummary
    agreeing: int | None = None
    images: int | None = None
    stamped_at: str = ""
    earlier_key_ids: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """Whether every accusation of the verdict was confirmed."""
        return all(c.confirmed for c in self.confirmations)


def judge(
    folder: Path,
    suspect: Path | Asking | None = None,
    *,
    trust: Trust | None = None,
) -> Judgement:
    """Check an evidence package and compute its accusations anew.

    Args:
        folder: The package; may be hostile.
        suspect: The file or folder that it is about, or how to ask the suspect; may be hostile.
            None judges recorded answers.
        trust: What is known beforehand.

    Raises:
        IntegrityError: Something was changed, or is not what was committed to, or the verdict says
            other than what is found.
        ConfigError: The evidence is about a file, and none was named, or the other way round.
        SuspectFileError: The suspect is unsafe or unsupported.
        SuspectAnswersError: It fails, hangs, or does not answer as a classifier does.
        NotComparableError: Decoys do not score as they must, or the suspect cannot be read.
    """
    trust = trust or Trust()
    package = Package.open(folder, trust.key, trust.published)
    confirming.check_form(package.verdict)
    said = package.verdict.get("suspect")
    if not isinstance(said, dict) or said.get("sha256") != package.suspect_sha256:
        raise IntegrityError("verdict and signature are about different suspects")
    if package.was_asked:
        if isinstance(suspect, Path):
            raise ConfigError(
                "this evidence is about a suspect that was asked: name --predictor to ask it anew, "
                "or nothing to judge the recorded answers"
            )
        return _of_answers(package, suspect, trust)
    if not isinstance(suspect, Path):
        raise ConfigError("this evidence is about a file: name the SUSPECT")
    return _of_file(package, suspect, trust)


def _of_file(package: Package, suspect: Path, trust: Trust) -> Judgement:
    file = read_suspect(suspect)
    if file.sha256 != package.suspect_sha256:
        raise IntegrityError(f"{suspect} is not the file that the evidence is about")
    found = [rereading.reread(package, model_id, file.weights) for model_id in package.model_ids]
    _check_stated(package, found)
    return _judgement(package, found, trust, FILE)


def _of_answers(package: Package, suspect: Asking | None, trust: Trust) -> Judgement:
    record = rehearing.records(package)
    models = package.model_ids
    found = [rehearing.rehear(package, m, record.get(m), None) for m in models]
    _check_stated(package, found)
    asked = next(r.asked for r in found if r.bits.model_id == package.verdict["model_id"])
    if package.verdict["queries"] != asdict(asked):
        raise IntegrityError("the suspect was not asked, or did not answer, as the verdict says")
    if suspect:  # only after all that was signed held: asking anew discloses the pool once more
        found = [rehearing.rehear(package, m, record.get(m), suspect) for m in models]
    return _judgement(package, found, trust, ASKED if suspect else RECORDED)


def _check_stated(package: Package, found: Sequence[Reread] | Sequence[Reheard]) -> None:
    confirmations = [c for part in found for c in part.confirmations]
    read = [part.bits for part in found]
    confirming.check_stated(package.verdict, confirmations, read, package.stated_level())


def _judgement(
    package: Package, found: Sequence[Reread] | Sequence[Reheard], trust: Trust, rests_on: str
) -> Judgement:
    used = [part.commitment for part in found]
    newest = max(used, key=package.chain.index)
    level = package.level(newest, 1)
    heard = [part for part in found if isinstance(part, Reheard)] if rests_on == ASKED else []
    return Judgement(
        key_id=signing.key_id(package.keys[-1]),
        earlier_key_ids=tuple(signing.key_id(key) for key in package.keys[:-1]),
        suspect_sha256=package.suspect_sha256,
        rests_on=rests_on,
        max_false_accusation=level.total,
        words=level.words,
        commitment_sha256=newest.digest,
        committed_at=_time(newest),
        confirmations=tuple(c for part in found for c in part.confirmations),
        decoys=found[0].decoys,
        agreeing=sum(part.agreeing for part in heard) if heard else None,
        images=sum(part.asked.images for part in heard) if heard else None,
        stamped_at=package.stamped_at([c.digest for c in used], trust.authorities),
    )


def _time(commitment: Commitment) -> str:
    return str(commitment.predicate.get("time", ""))
