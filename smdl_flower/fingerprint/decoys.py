"""Decoys: customers who were never issued a copy, scored with every suspect as a live check.

By the theorems a decoy's carrier score is sub-Gaussian and its payload p-value super-uniform. If
those of many decoys are not, an assumption is broken for this suspect (a defect, a broken cipher, a
suspect made from the decoys' own words) and no verdict may rest on it.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smdl_flower.errors import NotComparableError
from smdl_flower.fingerprint.keys import CampaignKey, CustomerKey

DECOYS = 1000
DEVIATIONS = 5.0  # a few suspects in a million are turned away by chance
LEVELS = (0.1, 0.05)
EDGES = np.arange(-4.0, 4.5, 0.5)  # of the histogram


def keys(campaign: CampaignKey, count: int = DECOYS) -> Iterator[CustomerKey]:
    """Yield the keys of decoys; a slash is not allowed in a customer's name, so none is one."""
    return (campaign.customer(f"decoy/{number:06d}") for number in range(count))


@dataclass(frozen=True)
class DecoySummary:
    """What the decoys of one examination scored.

    Attributes:
        count: How many there were.
        mean: Of their carrier scores.
        deviation: Standard deviation of their carrier scores.
        highest: Largest carrier score.
        histogram: How many scored below -4, from there to -3.5 ... from 4 on.
    """

    count: int
    mean: float
    deviation: float
    highest: float
    histogram: tuple[int, ...] = ()


def check(scores: Sequence[float], payload_log_ps: Mapping[str, Sequence[float]]) -> DecoySummary:
    """Compare decoys with what the theorems allow.

    Args:
        scores: Carrier scores z of the decoys.
        payload_log_ps: ln of their payload p-values by decoder.

    Raises:
        NotComparableError: They are not as the theorems say: nobody may be accused.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> check(rng.standard_normal(1000), {"symmetric": np.log(rng.random(1000))}).count
        1000
    """
    summary = _summary(scores)
    _refuse(_carrier_problems(summary) + _payload_problems(payload_log_ps), summary.count)
    return summary


def check_words(
    scores: Sequence[float], payload_log_ps: Mapping[str, Sequence[float]]
) -> DecoySummary:
    """Compare decoys that have codewords and no carriers with what theorem 1 allows.

    Args:
        scores: Of the decoys, to be told; words with rare bits have heavy tails, so that only their
            p-values are judged.
        payload_log_ps: ln of their p-values by test.

    Raises:
        NotComparableError: They are not as the theorem says: nobody may be accused.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> check_words(rng.standard_normal(1000), {"symmetric": np.log(rng.random(1000))}).count
        1000
    """
    summary = _summary(scores)
    _refuse(_payload_problems(payload_log_ps), summary.count)
    return summary


def _summary(scores: Sequence[float]) -> DecoySummary:
    values = np.asarray(scores)
    return DecoySummary(
        *(len(values), float(values.mean()), float(values.std())),
        highest=float(values.max(initial=-math.inf)),
        histogram=tuple(np.bincount(np.digitize(values, EDGES), minlength=len(EDGES) + 1).tolist()),
    )


def _refuse(problems: list[str], count: int) -> None:
    if problems:
        raise NotComparableError(
            f"{count} customers who were never issued a copy do not score as the theorem says "
            f"({'; '.join(problems)}); nobody may be accused on this. Report it: an assumption of "
            "docs/threat_model.md is broken"
        )


def _carrier_problems(summary: DecoySummary) -> list[str]:
    # A sub-Gaussian variable has variance one at most, and its mean of n falls within
    # 5/sqrt(n); the deviation of n such scores within 5/sqrt(2n) above one.
    problems = []
    if not abs(summary.mean) <= DEVIATIONS / math.sqrt(summary.count):
        problems.append(f"mean {summary.mean:.3f}")
    if not summary.deviation <= 1 + DEVIATIONS / math.sqrt(2 * summary.count):
        problems.append(f"standard deviation {summary.deviation:.3f}")
    # P(highest >= t) <= n exp(-t^2/2), which is 1e-6 here.
    if not summary.highest <= math.sqrt(2 * math.log(summary.count / 1e-6)):
        problems.append(f"highest score {summary.highest:.1f}")
    return problems


def _payload_problems(log_ps: Mapping[str, Sequence[float]]) -> list[str]:
    problems = []
    for (decoder, values), level in itertools.product(log_ps.items(), LEVELS):
        count = len(values)
        allowed = count * level + DEVIATIONS * math.sqrt(count * level * (1 - level))
        found = int((np.exp(values) <= level).sum())
        if found > allowed:
            problems.append(f"{found} payload p-values ({decoder}) at or below {level}")
    return problems
