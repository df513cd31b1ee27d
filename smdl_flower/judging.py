"""Compute an accusation anew from an evidence package and the suspect, and from nothing else.

Neither registry nor master key is needed, and the owner is not believed: the base model, the way of
reading and each opened key must be what was committed to before copies went out; the number of
customers that the bound is shared among is the one committed to, if that is larger than the
verdict's. The suspect is read here. A thousand decoys, whose keys anybody can derive from the
commitment, are scored as well: if they are not as innocents must be, nothing is confirmed.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from cryptography import x509

from smdl_flower import (
    commitments,
    evidence_package,
    merkle,
    models,
    signing,
    timestamps,
    verifying,
    weights,
)
from smdl_flower.commitments import Commitment
from smdl_flower.errors import IntegrityError, NotComparableError, SmdlError, SuspectFileError
from smdl_flower.evidence_package import TERMS
from smdl_flower.fingerprint import carriers, decoys, extraction
from smdl_flower.fingerprint.accusation import Level, carrier_log_p
from smdl_flower.fingerprint.alignment import align
from smdl_flower.fingerprint.cancellation import cancel
from smdl_flower.fingerprint.carriers import Chips
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.extraction import Reading
from smdl_flower.fingerprint.keys import CustomerKey, OpenedStreams
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.payload import Spreading
from smdl_flower.fingerprint.taught import Directions
from smdl_flower.models import ModelSpec
from smdl_flower.suspects.reading import read as read_suspect
from smdl_flower.weights import Limits, Weights

SMALL = Limits(file_bytes=16 << 20)  # of a JSON file


@dataclass(frozen=True)
class Confirmation:
    """What computing one accusation anew gave.

    Attributes:
        customer: Who is accused.
        model_id: Base model of the copy.
        score: z of the customer's carrier.
        log10_p: Bound on the chance that an innocent scores as much.
        threshold: Largest log10 p that accuses.
        alignment: How the suspect was aligned.
        confirmed: Whether it accuses.
    """

    customer: str
    model_id: str
    score: float
    log10_p: float
    threshold: float
    alignment: str
    confirmed: bool


@dataclass(frozen=True)
class Judgement:
    """The outcome.

    Attributes:
        key_id: Of the key that signed everything; compare it with the published one.
        suspect_sha256: Of the file that was read.
        max_false_accusation: Bound on naming any innocent.
        committed_at: When the newest statement that was used says it was made.
        confirmations: One for each accusation of the verdict.
        decoys: How customers who do not exist scored, in the reading of the first.
        stamped_at: By when the statements that were used existed, as a time-stamping authority
            says; empty if there is no stamp, or nobody said which authority is trusted.
    """

    key_id: str
    suspect_sha256: str
    max_false_accusation: float
    committed_at: str
    confirmations: tuple[Confirmation, ...]
    decoys: DecoySummary
    stamped_at: str = ""

    @property
    def valid(self) -> bool:
        """Whether every accusation of the verdict was confirmed."""
        return all(c.confirmed for c in self.confirmations)


def judge(
    folder: Path,
    suspect: Path,
    *,
    public: str | None = None,
    authorities: Sequence[x509.Certificate] = (),
) -> Judgement:
    """Check an evidence package and compute its accusations anew.

    Args:
        folder: The package; may be hostile.
        suspect: The file or folder that it is about; may be hostile.
        public: The owner's published key, hexadecimal. Without it the package's own is used: then
            compare :attr:`Judgement.key_id` with the published one.
        authorities: Certificates of time-stamping authorities that are trusted.

    Raises:
        IntegrityError: Something was changed, or is not what was committed to.
        SuspectFileError: The suspect is unsafe or unsupported.
        NotComparableError: Decoys do not score as they must, or the suspect cannot be read.
    """
    package = _Package.open(folder, public)
    file = read_suspect(suspect)
    if file.sha256 != package.suspect_sha256:
        raise IntegrityError(f"{suspect} is not the file that the evidence is about")
    found = [_confirm(package, model_id, file.weights) for model_id in package.model_ids]
    return Judgement(
        key_id=signing.key_id(package.public),
        suspect_sha256=file.sha256,
        max_false_accusation=package.level.total,
        committed_at=max(terms.committed_at for terms, _, _ in found),
        confirmations=tuple(c for _, confirmations, _ in found for c in confirmations),
        decoys=found[0][2],
        stamped_at=package.stamped_at([terms.seed.hex() for terms, _, _ in found], authorities),
    )


@dataclass(frozen=True)
class _Package:
    """A package whose signatures and digests hold."""

    folder: Path
    public: str
    chain: list[Commitment]
    suspect_sha256: str
    verdict: dict[str, Any]

    @classmethod
    def open(cls, folder: Path, public: str | None) -> "_Package":
        chain_files = sorted((folder / evidence_package.COMMITMENTS).glob("*.json"))
        if not chain_files:
            raise IntegrityError(f"{folder}: no evidence package, it has no commitments")
        envelopes = [_content(path) for path in chain_files]
        key = public or signing.claimed_key(envelopes[0])
        statement = signing.read(
            _content(folder / evidence_package.STATEMENT), key, evidence_package.KIND
        )
        subjects = dict(statement.subjects)
        suspect = subjects.pop(evidence_package.SUSPECT, "")
        if dict(_digests(folder)) != subjects:
            raise IntegrityError(f"{folder}: files are not those that were signed")
        chain = commitments.check_chain(envelopes, key)
        verdict = _json(folder / evidence_package.VERDICT)
        return cls(folder, key, chain, suspect, verdict)

    def stamped_at(self, used: Sequence[str], authorities: Sequence[x509.Certificate]) -> str:
        """When the newest of some statements had been seen; a stamp holds for all before it."""
        if not authorities:
            return ""
        last = max(n for n, commitment in enumerate(self.chain) if commitment.digest in used)
        times = []
        for number in range(last, len(self.chain)):
            path = self.folder / evidence_package.COMMITMENTS / f"{number + 1:06d}.tsr"
            if path.exists():
                stamp = timestamps.read(path)
                times.append(timestamps.check(stamp, self.chain[number].envelope, authorities))
        return min(times, default="")

    @property
    def accused(self) -> list[tuple[str, str]]:
        """Model and customer of each accusation of the verdict."""
        try:
            return [(str(a["model_id"]), str(a["customer"])) for a in self.verdict["accused"]]
        except (KeyError, TypeError):
            raise IntegrityError("verdict.json is damaged") from None

    @property
    def model_ids(self) -> list[str]:
        found = sorted({model_id for model_id, _ in self.accused})
        if not found:
            raise IntegrityError("the verdict names nobody: there is nothing to judge")
        return found

    @property
    def level(self) -> Level:
        """What each comparison may spend, were all customers those that the verdict says."""
        try:
            total, words = self.verdict["max_false_accusation"], self.verdict["customers"]
            words += self.verdict["broadcasts"]
            verifying.check_bound(float(total))
            return Level(float(total), int(words), verifying.HYPOTHESES)
        except (KeyError, TypeError, ValueError, SmdlError):
            raise IntegrityError("verdict.json is damaged") from None


@dataclass(frozen=True)
class _Terms:
    """What was disclosed of one base model, found to be what was committed to."""

    spec: ModelSpec
    base: Weights = field(repr=False)
    mark: Mark = field(repr=False)
    customers: tuple[CustomerKey, ...]
    committed: int
    committed_at: str
    seed: bytes


def _confirm(
    package: _Package, model_id: str, suspect: Weights
) -> tuple[_Terms, list[Confirmation], DecoySummary]:
    terms = _opened(package, model_id)
    accused = {customer for model, customer in package.accused if model == model_id}
    if {key.customer for key in terms.customers} != accused:
        raise IntegrityError(f"model {model_id}: other keys are disclosed than of the accused")
    level = Level(
        package.level.total, max(package.level.words, terms.committed), package.level.hypotheses
    )
    best: dict[str, Confirmation] = {}
    summary = None
    for reading in _readings(terms, suspect):
        seen = _check_decoys(terms, reading)
        summary = summary or seen
        for found in _stages(terms, model_id, reading, level):
            known = best.get(found.customer)
            if known is None or (found.confirmed, found.score) > (known.confirmed, known.score):
                best[found.customer] = found
        if all(found.confirmed for found in best.values()):
            break
    if summary is None:
        raise NotComparableError(f"the suspect cannot be compared with model {model_id}")
    return terms, list(best.values()), summary


def _readings(terms: _Terms, suspect: Weights) -> list[Reading]:
    """The suspect as it lies and aligned, as far as it can be read."""
    readings = []
    with contextlib.suppress(NotComparableError):
        readings.append(extraction.read(terms.mark, suspect))
    with contextlib.suppress(NotComparableError):
        aligned = align(models.build(terms.spec, seed=0), terms.base, suspect)
        if aligned.label != "none":
            readings.append(extraction.read(terms.mark, aligned.weights, aligned.label))
    return readings


def _stages(terms: _Terms, model_id: str, reading: Reading, level: Level) -> list[Confirmation]:
    """The accusation process among the accused: who is confirmed helps to find the others."""
    left, confirmed, found = list(terms.customers), list[CustomerKey](), list[Confirmation]()
    for stage in range(1, len(terms.customers) + 1):
        direction = cancel(reading, confirmed).astype(np.float64)
        scores = {key: carriers.score(key, direction) for key in left}
        threshold = level.log_p(stage)
        new = [key for key, z in scores.items() if carrier_log_p(z) <= threshold]
        for key in new or left:
            found.append(
                Confirmation(
                    customer=key.customer,
                    model_id=model_id,
                    score=scores[key],
                    log10_p=carrier_log_p(scores[key]) / math.log(10),
                    threshold=threshold / math.log(10),
                    alignment=reading.alignment,
                    confirmed=bool(new),
                )
            )
        left = [key for key in left if key not in new]
        confirmed += new
        if not (new and left):
            break
    return found


def _check_decoys(terms: _Terms, reading: Reading) -> DecoySummary:
    direction = reading.direction.astype(np.float64)
    keys = (
        CustomerKey(f"decoy/{n}", hashlib.sha256(terms.seed + n.to_bytes(4, "big")).digest())
        for n in range(decoys.DECOYS)
    )
    return decoys.check([carriers.score(key, direction) for key in keys], {})


def _opened(package: _Package, model_id: str) -> _Terms:
    place = package.folder / evidence_package.DISCLOSURE / Path(model_id).name
    document = _json(place / TERMS)
    base = weights.read(place / f"{commitments.BASE}.safetensors").weights
    digest = weights.digest(base)
    commitment = commitments.newest_of(package.chain, digest)
    if commitment is None or not digest.startswith(model_id):
        raise IntegrityError(f"model {model_id}: this base model was never committed to")
    parts = {commitments.BASE: base}
    for name in {commitments.PROFILE, *commitment.subjects} - set(parts):
        parts[name] = weights.read(place / f"{Path(name).name}.safetensors").weights
        if commitment.subjects.get(name) != weights.digest(parts[name]):
            raise IntegrityError(f"model {model_id}: another {name} was committed to")
    try:
        return _as_committed(commitment, document, parts)
    except (KeyError, TypeError, ValueError, OverflowError, SuspectFileError):
        raise IntegrityError(f"model {model_id}: {TERMS} or its commitment is damaged") from None


def _as_committed(
    commitment: Commitment, document: dict[str, Any], parts: dict[str, Weights]
) -> _Terms:
    stated = commitment.predicate
    opened = {label: bytes.fromhex(text) for label, text in document["streams"].items()}
    if commitments.digests(opened) != stated["streams"]:
        raise IntegrityError("another way of reading was committed to (key streams differ)")
    if stated["detector"] != commitments.DETECTOR:
        raise IntegrityError(
            f"this version reads {commitments.DETECTOR}, not what was committed to"
        )
    base, streams = parts[commitments.BASE], OpenedStreams(opened)
    layout = Layout.of(base)
    flat = layout.flatten(parts[commitments.PROFILE])
    taught = [Directions(*of) for of in parts.get(commitments.TAUGHT, {}).items()]
    length = int(stated["code_length"])
    mark = Mark(
        layout,
        layout.flatten(base),
        flat,
        Chips.for_size(streams, layout.size, int(stated["carrier_length"])),
        spreading=Spreading.of(streams, flat, length),
        biases=np.full(length, 0.5),  # of the payload's words, which are not judged
        strength=float(stated["strength"]),
        taught=next(iter(taught), None),
    )
    keys = tuple(_customer(entry, stated) for entry in document["customers"])
    # As a file's text: it may name no code to be imported.
    described = {"format": "smdl-model/1", **{k: str(v) for k, v in stated["spec"].items()}}
    return _Terms(
        *(ModelSpec.from_metadata(described), base, mark, keys, int(stated["customers"])),
        committed_at=str(stated["time"]),
        seed=bytes.fromhex(commitment.digest),
    )


def _customer(entry: dict[str, Any], stated: dict[str, Any]) -> CustomerKey:
    """A disclosed key that is the one committed to for that customer."""
    key = CustomerKey(str(entry["customer"]), bytes.fromhex(entry["key"]))
    path = [bytes.fromhex(step) for step in entry["proof"]]
    found = merkle.check(commitments.leaf(key), int(entry["index"]), int(stated["customers"]), path)
    if found is None or found.hex() != stated["merkle_root"]:
        raise IntegrityError(f"customer {key.customer[:80]!r}: another key was committed to")
    return key


def _digests(folder: Path) -> Sequence[tuple[str, str]]:
    try:
        return list(evidence_package.digests(folder))
    except SmdlError as error:  # a link, a pipe, too large
        raise IntegrityError(str(error)) from None


def _content(path: Path) -> bytes:
    try:
        return weights.read_bytes(path, SMALL)
    except SmdlError as error:
        raise IntegrityError(str(error)) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(_content(path))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise IntegrityError(f"{path.name} is damaged")
    return document
