"""Whether an accusation is confirmed, and whether the verdict says what was found.

The process is the verifier's own (:mod:`smdl_flower.fingerprint.tracing`) among those who are
accused: whoever is confirmed helps to find the others. A verdict whose figures are not those that
the suspect gives is refused, also where the accusation itself would stand.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smdl_flower import evidence
from smdl_flower.errors import IntegrityError
from smdl_flower.fingerprint import decoys, tracing
from smdl_flower.fingerprint.accusation import Level
from smdl_flower.fingerprint.keys import CustomerKey, CustomerStreams
from smdl_flower.fingerprint.tracing import Stage

CLOSE = 1e-3  # relative: another processor sums in another order


@dataclass(frozen=True)
class Confirmation:
    """What computing one accusation anew gave.

    Attributes:
        customer: Who is accused.
        model_id: Base model of the copy.
        evidence: ``carrier``, ``payload`` or ``queries``.
        test: Which test; as in a verdict.
        stage: Of the accusation process.
        score: z of the carrier, or a codeword's integer score.
        log10_p: Bound on the chance that an innocent scores as much.
        threshold: Largest log10 p that accuses.
        alignment: How the suspect was aligned.
        confirmed: Whether it accuses.
    """

    customer: str
    model_id: str
    evidence: str
    test: str
    stage: int
    score: float
    log10_p: float
    threshold: float
    alignment: str
    confirmed: bool

    @property
    def label(self) -> str:
        """Evidence and test in words, as a verdict says it."""
        which = f" ({self.test})" if self.test != self.evidence else ""
        return f"{self.evidence}{which}" + (f", stage {self.stage}" if self.stage > 1 else "")

    @property
    def margin(self) -> float:
        """Powers of ten between what was found and what accuses; positive if confirmed."""
        return self.threshold - self.log10_p


@dataclass(frozen=True)
class Basis:
    """What confirmations of one reading have in common.

    Attributes:
        model_id: The base model.
        words: What codewords were read from: ``payload`` or ``queries``.
        alignment: How the suspect was aligned.
        level: What each comparison may spend.
    """

    model_id: str
    words: str
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
        _confirmation(f.customer, f.tests[0], basis, f.stage, confirmed=True)
        for f in trace.findings
    ]
    named = {f.customer for f in trace.findings}
    for comparison in trace.comparisons:
        if comparison.customer not in named:
            best = min(comparison.tests, key=lambda test: test.log_p)
            found.append(_confirmation(comparison.customer, best, basis, 1, confirmed=False))
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


def check_stated(verdict: dict[str, Any], found: Sequence[Confirmation], stated: Level) -> None:
    """Raise unless a verdict says what was found, as far as a judge can know.

    Args:
        verdict: As the owner states it; may be hostile.
        found: The same accusations computed anew from the same suspect.
        stated: What each comparison may spend by its own account.

    Raises:
        IntegrityError: It says something else.
    """
    try:
        for confirmation in found:
            _check_accusation(verdict, confirmation, stated)
        _check_readings(verdict, found)
    except (KeyError, TypeError, ValueError, AttributeError):
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


def _check_accusation(verdict: dict[str, Any], found: Confirmation, stated: Level) -> None:
    who = (found.customer, found.model_id)
    (entry,) = (a for a in verdict["accused"] if (a["customer"], a["model_id"]) == who)
    witnesses = [entry, *entry["other_witnesses"]]
    for witness in witnesses:
        if not _close(witness["threshold"], stated.log_p(int(witness["stage"])) / math.log(10)):
            raise IntegrityError(f"{found.customer}: the stated threshold is not that of its level")
    same = [w for w in witnesses if (w["test"], w["stage"]) == (found.test, found.stage)]
    if found.confirmed and not any(
        w["evidence"] == found.evidence
        and _close(w["score"], found.score)
        and _close(w["log10_p"], found.log10_p)
        for w in same
    ):
        raise IntegrityError(
            f"{found.customer}: the verdict does not say what was found, {found.test} "
            f"{found.score:.1f} at stage {found.stage}"
        )


def _check_readings(verdict: dict[str, Any], found: Sequence[Confirmation]) -> None:
    named = {c.customer for c in found}
    if verdict["payload"]["best_match"] not in (None, *named):
        raise IntegrityError("the verdict names as best match somebody whom it does not accuse")
    first = verdict["accused"][0]
    alignments = {c.alignment for c in found if c.model_id == first["model_id"]}
    if verdict["model_id"] != first["model_id"]:
        raise IntegrityError("the verdict is about another model than it accuses of")
    if first["evidence"] == tracing.CARRIER and verdict["alignment"] not in alignments:
        raise IntegrityError("the suspect was not aligned as the verdict says")


def _confirmation(
    customer: str, test: tracing.Test, basis: Basis, stage: int, *, confirmed: bool
) -> Confirmation:
    return Confirmation(
        customer=customer,
        model_id=basis.model_id,
        evidence=tracing.CARRIER if test.name == tracing.CARRIER else basis.words,
        test=test.name,
        stage=stage,
        score=test.score,
        log10_p=test.log_p / math.log(10),
        threshold=basis.level.log_p(stage) / math.log(10),
        alignment=basis.alignment,
        confirmed=confirmed,
    )


def _close(said: Any, found: float) -> bool:
    return math.isclose(float(said), found, rel_tol=CLOSE, abs_tol=CLOSE)
