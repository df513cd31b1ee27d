"""Whether an accusation is confirmed, and whether the verdict says what was found.

The process is the verifier's own (:mod:`smdl_flower.fingerprint.tracing`) among those who are
accused: whoever is confirmed helps to find the others. A verdict whose figures are not those that
the suspect gives is refused, also where the accusation itself would stand.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from smdl_flower import evidence
from smdl_flower.errors import IntegrityError
from smdl_flower.evidence import Witness
from smdl_flower.fingerprint import decoys, tracing
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.keys import CustomerKey, CustomerStreams
from smdl_flower.fingerprint.tracing import Stage
from smdl_flower.opening import SHAPELESS

CLOSE = 1e-4  # relative: another processor sums in another order
EXACT = 1e-9  # of what no processor measures


@dataclass(frozen=True)
class Confirmation:
    """What computing one accusation anew gave.

    Attributes:
        customer: Who is accused.
        model_id: Base model of the copy.
        witnesses: Tests that accuse, the strongest first; the best one if none does.
        alignment: How the suspect was aligned.
        confirmed: Whether it accuses.
    """

    customer: str
    model_id: str
    witnesses: tuple[Witness, ...]
    alignment: str
    confirmed: bool

    @property
    def strongest(self) -> Witness:
        """The strongest of them."""
        return self.witnesses[0]

    @property
    def margin(self) -> float:
        """Powers of ten between what was found and what accuses; positive if confirmed."""
        return self.strongest.threshold - self.strongest.log10_p


@dataclass(frozen=True)
class Basis:
    """What confirmations of one reading have in common.

    Attributes:
        model_id: The base model.
        words: What codewords were read from.
        alignment: How the suspect was aligned.
        level: What each comparison may spend.
    """

    model_id: str
    words: Literal["payload", "queries"]
    alignment: str
    level: Level


def confirm(
    first: Stage, accused: Sequence[CustomerStreams], basis: Basis
) -> tuple[Confirmation, ...]:
    """Return one confirmation for each who is accused; those that accuse first, by stage.

    Args:
        first: Tests of the first stage.
        accused: What was opened of each.
        basis: Of the reading.
    """
    trace = tracing.trace(first, accused, basis.level)
    found = [
        _confirmation(f.customer, f.tests, basis, f.stage, confirmed=True) for f in trace.findings
    ]
    named = {f.customer for f in trace.findings}
    for comparison in trace.comparisons:
        if comparison.customer not in named:
            best = min(comparison.tests, key=lambda test: test.log_p)
            found.append(_confirmation(comparison.customer, (best,), basis, 1, confirmed=False))
    return tuple(found)


def decoy_keys(seed: bytes) -> Iterator[CustomerKey]:
    """Yield keys of customers who do not exist, which are nobody's choice.

    Args:
        seed: Digest of the commitment, 32 bytes; so anybody can derive them, and nobody could pick
            them to suit.
    """
    for number in range(decoys.DECOYS):
        secret = hashlib.sha256(seed + number.to_bytes(4, "big")).digest()
        yield CustomerKey(f"decoy/{number}", secret)


@dataclass(frozen=True)
class Bits:
    """The bits as a judge read them, and what the opened words say.

    Attributes:
        model_id: The base model.
        readings: Alignment and bits, one for each way in which the suspect was read.
        words: Of the accused, where they were opened.
    """

    model_id: str
    readings: tuple[tuple[str, str], ...]
    words: Mapping[str, str]


def check_stated(
    verdict: dict[str, Any], found: Sequence[Confirmation], read: Sequence[Bits], stated: Level
) -> None:
    """Raise unless a verdict says what was found, as far as a judge can know.

    Args:
        verdict: As the owner states it; may be hostile.
        found: The same accusations computed anew from the same suspect.
        read: The bits.
        stated: What each comparison may spend by its own account.

    Raises:
        IntegrityError: It says something else.
    """
    try:
        for confirmation in found:
            bits = next(bits for bits in read if bits.model_id == confirmation.model_id)
            _check_accusation(verdict, confirmation, stated, opened=bool(bits.words))
        _check_readings(verdict, found)
        _check_bits(verdict, next(bits for bits in read if bits.model_id == verdict["model_id"]))
    except SHAPELESS:
        raise IntegrityError("verdict.json is damaged") from None


def check_form(verdict: dict[str, Any]) -> None:
    """Raise unless a verdict is one, names customers alone, and tells what it does not show.

    Raises:
        IntegrityError: It is not.
    """
    said = verdict.get("not_shown")
    asked = evidence.ASKED_NOT_SHOWN if "queries" in verdict else ()
    if verdict.get("format") != evidence.FORMAT or not isinstance(said, list):
        raise IntegrityError("verdict.json is damaged")
    if not {*evidence.NOT_SHOWN, *asked} <= {str(line) for line in said}:
        raise IntegrityError("the verdict leaves out what a verdict does not show")
    if verdict.get("participants"):
        raise IntegrityError(
            "the verdict names participants of the training; nothing was committed to before "
            "models of training were sent, so that cannot be judged"
        )


def _check_accusation(
    verdict: dict[str, Any], found: Confirmation, stated: Level, *, opened: bool
) -> None:
    who = (found.customer, found.model_id)
    (entry,) = (a for a in verdict["accused"] if (a["customer"], a["model_id"]) == who)
    said = [entry, *entry["other_witnesses"]]
    for witness in said:
        level = stated.log_p(int(witness["stage"])) / math.log(10)
        if not math.isclose(float(witness["threshold"]), level, rel_tol=EXACT):
            raise IntegrityError(f"{found.customer}: the stated threshold is not that of its level")
    # Where nothing accuses, that is the outcome. Else each test that is told must have been found,
    # but for those of words that stay closed.
    if found.confirmed and not all(
        any(_same(witness, other) for other in found.witnesses)
        for witness in said
        if opened or witness["evidence"] == tracing.CARRIER
    ):
        strongest = found.strongest
        raise IntegrityError(
            f"{found.customer}: the verdict does not say what was found, {strongest.label()} "
            f"{strongest.score:.1f}"
        )


def _same(said: dict[str, Any], found: Witness) -> bool:
    names = ("evidence", "test", "stage")
    return all(said[name] == getattr(found, name) for name in names) and all(
        _close(said[name], getattr(found, name)) for name in ("score", "log10_p")
    )


def _check_readings(verdict: dict[str, Any], found: Sequence[Confirmation]) -> None:
    named = {c.customer for c in found}
    if verdict["payload"]["best_match"] not in (None, *named):
        raise IntegrityError("the verdict names as best match somebody whom it does not accuse")
    first = verdict["accused"][0]
    if verdict["model_id"] != first["model_id"]:
        raise IntegrityError("the verdict is about another model than it accuses of")


def _check_bits(verdict: dict[str, Any], read: Bits) -> None:
    payload = verdict["payload"]
    said, matching = str(payload["bits"]), int(payload["matching_bits"])
    readings = [bits for alignment, bits in read.readings if alignment == verdict["alignment"]]
    if not any(_alike(said, bits) for bits in readings):
        raise IntegrityError("alignment or bits are not those that the verdict says")
    word = read.words.get(payload["best_match"])
    agreeing = sum(map(str.__eq__, said, word)) if word else matching
    if matching != agreeing or not _close(payload["bit_error_rate"], 1 - matching / len(said)):
        raise IntegrityError("the bits do not agree with the word as the verdict says")


def _alike(said: str, found: str) -> bool:
    """Whether bits are the same but for a few next to zero, which another processor may turn."""
    other = sum(map(str.__ne__, said, found))
    return len(said) == len(found) and other <= max(1, len(found) // 100)


def _confirmation(
    customer: str, tests: Sequence[tracing.Test], basis: Basis, stage: int, *, confirmed: bool
) -> Confirmation:
    witnesses = tuple(
        Witness(
            evidence="carrier" if test.name == tracing.CARRIER else basis.words,
            score=test.score,
            log10_p=test.log_p / math.log(10),
            threshold=basis.level.log_p(stage) / math.log(10),
            test=test.name,
            stage=stage,
        )
        for test in tests
    )
    return Confirmation(customer, basis.model_id, witnesses, basis.alignment, confirmed)


def _close(said: Any, found: float) -> bool:
    return math.isclose(float(said), found, rel_tol=CLOSE, abs_tol=CLOSE)
