"""A suspect's weights read anew by a judge, and the opened keys of the accused compared.

Base model, profile and the key streams that reading needs are shown, if they are what was committed
to; so are the accused's keys. Carriers are compared, and codewords of a flat code, whose bits are
fair by definition. The biases of other codes stay a secret: who knows them forges payloads better,
so payloads of those are not judged.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smdl_flower import commitments, confirming, verifying, weights
from smdl_flower.commitments import Commitment
from smdl_flower.confirming import Basis, Bits, Confirmation
from smdl_flower.errors import ConfigError, IntegrityError, NotComparableError, SuspectFileError
from smdl_flower.evidence_package import DISCLOSURE_FORMAT, TERMS
from smdl_flower.fingerprint import carriers, codes, decoys
from smdl_flower.fingerprint.accusation import Level, carrier_log_p
from smdl_flower.fingerprint.cancellation import cancel
from smdl_flower.fingerprint.carriers import Chips
from smdl_flower.fingerprint.codes import Code
from smdl_flower.fingerprint.decoders import DECODERS
from smdl_flower.fingerprint.decoys import DecoySummary
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.fingerprint.extraction import Reading
from smdl_flower.fingerprint.keys import CustomerKey, CustomerStreams, OpenedStreams
from smdl_flower.fingerprint.layout import Layout
from smdl_flower.fingerprint.payload import Spreading
from smdl_flower.fingerprint.taught import Directions
from smdl_flower.fingerprint.tracing import CARRIER, Comparator, Comparison, Stage, Test
from smdl_flower.models import ModelSpec
from smdl_flower.opening import SHAPELESS, Package, check_about, check_opened, document
from smdl_flower.vault import BaseModel
from smdl_flower.weights import Weights

_NO_WORD = np.zeros(0, np.uint8)


@dataclass(frozen=True)
class Terms:
    """What was disclosed of one base model, found to be what was committed to.

    Attributes:
        model: The base model.
        mark: That its copies share.
        customers: Keys of the accused.
        commitment: The statement.
    """

    model: BaseModel = field(repr=False)
    mark: Mark = field(repr=False)
    customers: tuple[CustomerKey, ...] = field(repr=False)
    commitment: Commitment


@dataclass(frozen=True)
class Reread:
    """What reading a suspect anew gave, against one base model."""

    commitment: Commitment
    confirmations: tuple[Confirmation, ...]
    decoys: DecoySummary
    bits: Bits


def reread(package: Package, model_id: str, suspect: Weights) -> Reread:
    """Read a suspect anew and compare the keys of those accused of a base model's copy.

    Raises:
        IntegrityError: What is disclosed is not what was committed to.
        NotComparableError: Decoys do not score as they must, or the suspect cannot be read.
    """
    terms = _opened(package, model_id)
    if {key.customer for key in terms.customers} != package.accused_of(model_id):
        raise IntegrityError(f"model {model_id}: other keys are disclosed than of the accused")
    level = package.level(terms.commitment, verifying.HYPOTHESES)
    best: dict[str, Confirmation] = {}
    summary, read = None, list[tuple[str, str]]()
    for reading in _readings(terms, suspect):
        read.append((reading.alignment, codes.to_text(reading.bits)))
        first = _first_stage(terms, reading)
        seen = _check_decoys(terms, first)
        summary = summary or seen
        for found in confirming.confirm(first, terms.customers, _basis(terms, reading, level)):
            known = best.get(found.customer)
            if known is None or found.margin > known.margin:
                best[found.customer] = found
        if all(found.confirmed for found in best.values()):
            break
    if summary is None:
        raise NotComparableError(f"the suspect cannot be compared with model {model_id}")
    bits = Bits(model_id, tuple(read), _words(terms))
    return Reread(terms.commitment, tuple(best.values()), summary, bits)


class _Carriers:
    """The carriers alone: a stage of accusing without a payload."""

    def __init__(self, reading: Reading, accused: Sequence[CustomerStreams] = ()) -> None:
        self._reading = reading
        self._direction = cancel(reading, accused).astype(np.float64)

    def compare(self, key: CustomerStreams) -> Comparison:
        """Return one customer's comparison."""
        score = carriers.score(key, self._direction)
        return Comparison(key.customer, (Test(CARRIER, score, carrier_log_p(score)),), _NO_WORD)

    def after(self, accused: Sequence[CustomerStreams]) -> "_Carriers":
        """Return the tests of the stage that follows these accusations."""
        return _Carriers(self._reading, accused)


def _readings(terms: Terms, suspect: Weights) -> Iterator[Reading]:
    """The suspect as it lies and aligned, as far as it can be read."""
    ways = [verifying.as_it_lies, verifying.aligned]
    if ":" in terms.model.spec.name:
        # A package must not name code to be imported: without its module nothing can be aligned.
        ways = ways[:1]
    for read in ways:
        with contextlib.suppress(NotComparableError):
            if reading := read(terms.model, terms.mark, suspect):
                yield reading


def _first_stage(terms: Terms, reading: Reading) -> Stage:
    if terms.model.code.kind == "flat":
        return Comparator(terms.mark, reading)
    return _Carriers(reading)


def _words(terms: Terms) -> dict[str, str]:
    """Codewords of the accused, if these are opened."""
    if terms.model.code.kind != "flat":
        return {}
    biases = terms.mark.biases
    return {key.customer: codes.to_text(codes.codeword(key, biases)) for key in terms.customers}


def _basis(terms: Terms, reading: Reading, level: Level) -> Basis:
    return Basis(terms.model.model_id, "payload", reading.alignment, level)


def _check_decoys(terms: Terms, first: Stage) -> DecoySummary:
    seed = bytes.fromhex(terms.commitment.digest)
    compared = [first.compare(key) for key in confirming.decoy_keys(seed)]
    tests = {test.name for test in compared[0].tests} & set(DECODERS)
    return decoys.check(
        [c.carrier_score for c in compared], {n: [c.log_p(n) for c in compared] for n in tests}
    )


def _opened(package: Package, model_id: str) -> Terms:
    place = package.place(model_id)
    opened = document(place / TERMS)
    base = _weights(place, commitments.BASE)
    commitment = package.committed(model_id, weights.digest(base))
    parts = {commitments.BASE: base}
    for name in {commitments.PROFILE, *commitment.subjects} - set(parts):
        parts[name] = _weights(place, name)
        if commitment.subjects.get(name) != weights.digest(parts[name]):
            raise IntegrityError(f"model {model_id}: another {name} was committed to")
    try:
        return _as_committed(commitment, opened, parts)
    except (*SHAPELESS, ConfigError, SuspectFileError):
        raise IntegrityError(f"model {model_id}: {TERMS} or its commitment is damaged") from None


def _weights(place: Path, name: str) -> Weights:
    return weights.read(place / f"{Path(name).name}.safetensors").weights


def _as_committed(
    commitment: Commitment, opened: dict[str, Any], parts: dict[str, Weights]
) -> Terms:
    stated = commitment.predicate
    check_about(opened, DISCLOSURE_FORMAT, commitment)
    secrets = {label: bytes.fromhex(text) for label, text in opened["streams"].items()}
    if commitments.digests(secrets) != stated["streams"]:
        raise IntegrityError("another way of reading was committed to (key streams differ)")
    layout = Layout.of(parts[commitments.BASE])
    taught = [Directions(*of) for of in parts.get(commitments.TAUGHT, {}).items()]
    model = BaseModel(
        _spec(stated["spec"]),
        parts[commitments.BASE],
        layout.flatten(parts[commitments.PROFILE]),
        Code(**stated["code"]),
        float(stated["strength"]),
        int(stated["carrier_length"]),
        taught=next(iter(taught), None),
    )
    return Terms(
        model,
        _mark(model, layout, OpenedStreams(secrets)),
        tuple(_customer(entry, stated) for entry in opened["customers"]),
        commitment,
    )


def _mark(model: BaseModel, layout: Layout, streams: OpenedStreams) -> Mark:
    return Mark(
        layout,
        layout.flatten(model.weights),
        model.profile,
        Chips.for_size(streams, layout.size, model.carrier_length),
        spreading=Spreading.of(streams, model.profile, model.code.length),
        # Of a flat code; of any other nothing that is judged depends on them.
        biases=np.full(model.code.length, 0.5),
        strength=model.strength,
        taught=model.taught,
    )


def _spec(stated: dict[str, Any]) -> ModelSpec:
    """The model's kind; it may name code of the owner's, which is never imported here."""
    spec = ModelSpec(
        str(stated["name"]),
        *(int(stated[name]) for name in ("channels", "classes", "image_size")),
    )
    spec.check_sizes()
    return spec


def _customer(entry: dict[str, Any], stated: dict[str, Any]) -> CustomerKey:
    """A disclosed key that is the one committed to for that customer."""
    key = CustomerKey(str(entry["customer"]), bytes.fromhex(entry["key"]))
    leaf = commitments.leaf(key)
    check_opened(leaf, entry, stated["merkle_root"], int(stated["customers"]))
    return key
