"""How near a coalition's tracing comes to what its attack leaves possible.

Per marked weight the c copies differ by independent carriers of strength ``a phi s``, with
a^2 = alpha^2/2. What a coalition leaks is their mean plus a residual. Let rho be the residual's
deviation in units of that strength. A correlation with one colluder's carrier then reaches

    z(c) = sqrt(d / (c + c^2 rho^2)),

so that it exceeds a threshold t as long as d >= t^2 (c + c^2 rho^2): the usual bound for Gaussian
fingerprints under averaging and noise (Cox et al. 1997; Ergun, Kilian and Kumar 1999 for its order,
sqrt(d / ln N) at rho = 1). The largest such c is the limit, with rho as measured in the attack.

A compressed carrier has L values, each on d/L weights: the other colluders disturb L numbers
instead of d, the residual as before, so z(c) = 1/sqrt(c/L + c^2 rho^2/d).

It is a limit for detectors that see the residual as noise; one that knew how it was made could do
better. What all copies of a group share (an offset in units of the mark) is no noise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from smdl_flower.bench.record import Record, Result
from smdl_flower.fingerprint.embedding import Mark
from smdl_flower.weights import Weights

BINS = 16  # of equal sensitivity in each tensor: noise may differ between them
SHARE_NAMED = 0.9  # of the guilty, for a size to count as traced


@dataclass(frozen=True)
class Efficiency:
    """Of one coalition attack at one size.

    Attributes:
        noise: rho, root mean square over the trials.
        limit: Largest coalition that theory allows at that noise.
        reached: The same from the least z measured, extrapolated by the law above.
        eta: ``reached / limit``.
        traced: Largest size tried of which at least 90 % were named; 0 if none.
        at_least: Whether no larger size was tried, so that ``traced`` may be too small.
    """

    noise: float
    limit: float
    reached: float
    eta: float
    traced: int
    at_least: bool


def noise(mark: Mark, copies: Sequence[Weights], suspect: Weights) -> float:
    """Return rho, the deviation of what was leaked from the copies' mean, in units of a carrier.

    Weights that tell more count more, as in the law: 1/(c + c^2 rho^2) is the mean of what each
    group of similar weights gives. Weights set to zero give nothing.

    Args:
        mark: Of the base model.
        copies: Those that were combined.
        suspect: What came of it, in the base model's form.
    """
    count = len(copies)
    leaked = mark.layout.flatten(suspect)
    residual = leaked - np.mean([mark.layout.flatten(copy) for copy in copies], axis=0)
    information = 0.0
    for tensor in mark.layout.tensors:
        strength = mark.strength / math.sqrt(2) * mark.profile[tensor.where] * tensor.scale
        relative = residual[tensor.where].astype(np.float64) / strength
        relative[leaked[tensor.where] == 0.0] = np.nan
        order = np.argsort(mark.profile[tensor.where], kind="stable")
        for group in np.array_split(relative[order], BINS):
            kept = group[np.isfinite(group)]
            if len(kept):
                information += len(kept) / (count + count**2 * float(np.var(kept)))
    if information <= 0.0:
        return math.inf
    return math.sqrt(max(0.0, mark.layout.size / information - count)) / count


def largest(values: float, threshold: float, rho: float) -> float:
    """Return the largest c with ``values >= threshold^2 (c + c^2 rho^2)``.

    Example:
        >>> largest(10_000, 5.6, 0.0) == 10_000 / 5.6**2  # averaging alone
        True
        >>> round(largest(10_000, 5.6, 1.0))
        17
    """
    room = values / threshold**2
    # The stable form of the quadratic's root: no difference of near numbers for a small rho.
    return 2 * room / (1 + math.sqrt(1 + 4 * rho**2 * room))


def complete(record: Record) -> None:
    """Add its efficiency to each row of a bench that has all its results."""
    for row, found in zip(record.rows(), per_row(record.document()), strict=True):
        record.describe(row, {"efficiency": asdict(found) if found else None})


def per_row(document: Mapping[str, Any]) -> list[Efficiency | None]:
    """Return the efficiency of each row of a ``bench.json``; None for other than coalitions.

    A coalition whose residual was not measured, or a bench that names nobody at all (so that no
    threshold is known), has none either.
    """
    threshold = _threshold(document)
    return [
        _of(row, document, threshold) if row["block"] == "C" and threshold else None
        for row in document["rows"]
    ]


def _of(row: Mapping[str, Any], document: Mapping[str, Any], threshold: float) -> Efficiency | None:
    results = [Result.from_json(result) for result in row["results"]]
    measured = [r for r in results if r.noise is not None and r.guilty_scores]
    if not measured:
        return None
    size, identity = row["copies"], document["identity"]
    found = math.sqrt(float(np.mean([(r.noise or 0.0) ** 2 for r in measured])))
    values = identity["carrier_values"]
    rho = found * math.sqrt(values / identity["marked_weights"])  # of one value of a carrier
    limit = largest(values, threshold, rho)
    least = max(0.0, min(z for r in measured for z in _strengths(r, threshold)))
    # A detector that reaches a share k of the law's z does as well as k^2 of the values.
    share = least**2 * (size + size**2 * rho**2) / values
    reached = largest(values * share, threshold, rho)
    sizes = _traced_sizes(row, document)
    traced = max((tried for tried, named in sizes.items() if named), default=0)
    return Efficiency(found, limit, reached, reached / limit, traced, traced == max(sizes))


def _strengths(result: Result, threshold: float) -> list[float]:
    """The best score of each colluder: of the first stage, or of the later one that named it.

    A later stage asks for more: its scores are brought to the first one's threshold.
    """
    later = {
        trace.customer: trace.carrier_score * threshold / _score_at(trace.threshold)
        for trace in result.traces
        if trace.carrier_score is not None
    }
    return [max(z, later.get(customer, z)) for customer, z in result.guilty_scores.items()]


def _traced_sizes(row: Mapping[str, Any], document: Mapping[str, Any]) -> dict[int, bool]:
    """Which sizes of this attack were tried, and whether most of the guilty were named."""
    alike = [
        other
        for other in document["rows"]
        if (other["attack"], other["settings"]) == (row["attack"], row["settings"])
    ]
    shares = {}
    for other in alike:
        guilty = sum(len(result["guilty"]) for result in other["results"])
        named = sum(len(result["traces"]) for result in other["results"])
        shares[other["copies"]] = guilty > 0 and named >= SHARE_NAMED * guilty
    return shares


def _threshold(document: Mapping[str, Any]) -> float:
    """The carrier score that accuses in the first stage of these verdicts; 0 if none accused."""
    levels = [
        trace["threshold"]
        for row in document["rows"]
        for result in row["results"]
        for trace in result["traces"]
    ]
    return _score_at(max(levels, default=0.0))


def _score_at(log10_p: float) -> float:
    return math.sqrt(-2 * math.log(10) * log10_p)
